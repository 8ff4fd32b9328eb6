"""Joins what the routes know of a request with what the engine tells of its steps, and hands both to the log.

The engine publishes a step before the events of that step reach the event loop, so whoever has seen a request's last
event finds all its steps in the subscription. Everything here runs on the event loop.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

from optimus_server.engine.telemetry import Feed, RowTrace, StepTrace
from optimus_server.inbox import LoadLike
from optimus_server.store.recorder import Recorder
from optimus_server.store.records import DecisionRecord, LoadRecord, RequestRecord, StepRecord

UNREAD_STEPS = 4096
"""Traces the engine may be ahead; at 500 steps a second that is 8 s without the event loop."""

DRAIN_S = 0.1
SAMPLE_S = 1.0
ONE_IN = 64
"""Of the steps between two changes of the chunk, one in so many is recorded as a decision."""


class Journal:
    """Collects steps for the requests that are to be logged.

    Args:
        load: how busy the engine is.
        clock: seconds since 1970.
    """

    def __init__(
        self, recorder: Recorder, feed: Feed, load: Callable[[], LoadLike], clock: Callable[[], float] = time.time
    ) -> None:
        self.recorder = recorder
        self._feed = feed
        self._load = load
        self._clock = clock
        self._traces = feed.subscribe(UNREAD_STEPS)
        self._steps: dict[str, list[tuple[StepTrace, RowTrace]]] = {}
        self._missed = 0
        self._chunk = 0
        self._since_sample: list[StepTrace] = []
        self._sampled_at = clock()
        self._idle = True

    def expect(self, engine_id: str) -> None:
        """Keep the steps of a request from now on."""
        self._steps[engine_id] = []

    def end(self, engine_id: str, record: RequestRecord) -> None:
        """Record a request, together with its steps so far."""
        self.drain()
        created = record.created_us / 1e6
        trace = tuple(_step(step, row, created) for step, row in self._steps.pop(engine_id, []))
        self.recorder.submit(replace(record, trace=trace))

    async def run(self) -> None:
        """Read on until cancelled, and sample the load once a second."""
        try:
            while True:
                await asyncio.sleep(DRAIN_S)
                self.drain()
                if self._clock() - self._sampled_at >= SAMPLE_S:
                    self.sample()
        finally:
            self._feed.unsubscribe(self._traces)

    def drain(self) -> None:
        """Take what the engine has told since the last time."""
        traces, missed = self._traces.drain(), self._traces.dropped - self._missed
        if missed:
            self._missed += missed
            self.recorder.lose(missed)
        for trace in traces:
            for row in trace.rows:
                if (steps := self._steps.get(row.request_id)) is not None:
                    steps.append((trace, row))
            self._decide(trace)
            self._since_sample.append(trace)

    def sample(self) -> None:
        """Record how busy the engine has been since the last sample; of idle seconds only the first."""
        now, traces, load = self._clock(), self._since_sample, self._load()
        seconds, self._sampled_at, self._since_sample = max(now - self._sampled_at, 1e-3), now, []
        idle = not (traces or load.running or load.waiting)
        if idle and self._idle:
            return
        self._idle = idle
        chunks = [row.chunk for trace in traces for row in trace.rows if row.masks]
        self.recorder.submit(
            LoadRecord(
                t_us=int(now * 1e6),
                running=load.running,
                waiting=load.waiting,
                batch=statistics.fmean([len(trace.rows) for trace in traces]) if traces else 0.0,
                tok_s=sum(trace.committed for trace in traces) / seconds,
                kv=1 - load.free_pages / load.pages if load.pages else 0.0,
                step_ms_p50=statistics.median([trace.observed_s * 1e3 for trace in traces]) if traces else None,
                chunk_p50=statistics.median(chunks) if chunks else None,
            )
        )

    def _decide(self, trace: StepTrace) -> None:
        decision = trace.decision
        if not decision.rows or (decision.chunk == self._chunk and trace.number % ONE_IN):
            return
        before, self._chunk = self._chunk or decision.chunk, decision.chunk
        self.recorder.submit(
            DecisionRecord(
                t_us=int(trace.at * 1e6),
                batch=decision.rows,
                queue=decision.waiting,
                kv=decision.kv_used,
                chunk_old=before,
                chunk_new=decision.chunk,
                chunk_min=decision.smallest,
                chunk_max=decision.largest,
                reason=decision.reason,
                positions=decision.positions,
                prefill=decision.prefill,
                kv_tokens=decision.kv_tokens,
                expected_commits=decision.expected_commits,
                commits=trace.committed,
                predicted_ms=decision.predicted_s * 1e3,
                actual_ms=trace.observed_s * 1e3,
            )
        )


def _step(trace: StepTrace, row: RowTrace, created: float) -> StepRecord:
    return StepRecord(
        t_ms=max(0.0, (trace.at + trace.observed_s - created) * 1e3),
        start=row.start,
        stop=row.stop,
        chunk=row.chunk,
        frontier=row.frontier - row.advance,
        masks=row.masks,
        advance=row.advance,
        positions=tuple(position for position, _, _ in row.commits),
        percents=tuple(round(100 * confidence) for _, _, confidence in row.commits),
        batch=len(trace.rows),
        queue=trace.decision.waiting,
        step_ms=trace.observed_s * 1e3,
        reason=trace.decision.reason,
    )
