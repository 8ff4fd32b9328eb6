"""Joins what the routes know of a request with what the engine tells of its steps, and hands both to the log.

The engine publishes a step before the events of that step reach the event loop, so whoever has seen a request's last
event finds all its steps in the subscription. Everything here runs on the event loop.
"""

import asyncio
import statistics
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from struct import Struct

from optimus_server.engine.telemetry import REASONS, Feed, RowTrace, StepTrace
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
        self._steps: dict[str, _Steps] = {}
        self._missed = 0
        self._chunk = 0
        self._sample = _Sample()
        self._sampled_at = clock()
        self._idle = True

    def expect(self, engine_id: str, created: float) -> None:
        """Keep the steps of a request from now on.

        Args:
            created: its arrival, seconds since 1970.
        """
        self._steps[engine_id] = _Steps(created)

    def end(self, engine_id: str, record: RequestRecord) -> None:
        """Record a request, together with its steps so far."""
        self.drain()
        steps = self._steps.pop(engine_id, None)
        self.recorder.submit(replace(record, trace=tuple(steps) if steps else ()))

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
                if steps := self._steps.get(row.request_id):
                    steps.add(trace, row)
            self._decide(trace)
            self._sample.add(trace)

    def sample(self) -> None:
        """Record how busy the engine has been since the last sample; of idle seconds only the first."""
        now, sample, load = self._clock(), self._sample, self._load()
        seconds, self._sampled_at, self._sample = max(now - self._sampled_at, 1e-3), now, _Sample()
        idle = not (sample.rows or load.running or load.waiting)
        if idle and self._idle:
            return
        self._idle = idle
        self.recorder.submit(
            LoadRecord(
                t_us=int(now * 1e6),
                running=load.running,
                waiting=load.waiting,
                batch=statistics.fmean(sample.rows) if sample.rows else 0.0,
                tok_s=sample.committed / seconds,
                kv=1 - load.free_pages / load.pages if load.pages else 0.0,
                step_ms_p50=statistics.median(sample.step_ms) if sample.step_ms else None,
                chunk_p50=statistics.median(sample.chunks) if sample.chunks else None,
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


class _Sample:
    """What the steps since the last load sample were like."""

    def __init__(self) -> None:
        self.rows, self.chunks = array("q"), array("q")
        self.step_ms = array("d")
        self.committed = 0

    def add(self, trace: StepTrace) -> None:
        self.rows.append(len(trace.rows))
        self.chunks.extend([row.chunk for row in trace.rows if row.masks])
        self.step_ms.append(trace.observed_s * 1e3)
        self.committed += trace.committed


class _Steps:
    """The steps of one request, packed: of 256 streams they are a million, which the garbage collector would walk again
    and again if they were objects.

    Args:
        created: arrival of the request, seconds since 1970.
    """

    def __init__(self, created: float) -> None:
        self._created = created
        self._packed = bytearray()

    def add(self, trace: StepTrace, row: RowTrace) -> None:
        commits = [(position, round(100 * confidence)) for position, _, confidence in row.commits]
        self._packed += _STEP.pack(
            max(0.0, (trace.at + trace.observed_s - self._created) * 1e3), trace.observed_s * 1e3,
            row.start, row.stop, row.chunk, row.frontier - row.advance, row.masks, row.advance,
            len(trace.rows), trace.decision.waiting, REASONS.index(trace.decision.reason), len(commits),
        )  # fmt: skip
        for commit in commits:
            self._packed += _COMMIT.pack(*commit)

    def __iter__(self) -> Iterator[StepRecord]:
        at = 0
        while at < len(self._packed):
            t_ms, step_ms, start, stop, chunk, frontier, masks, advance, batch, queue, reason, count = (
                _STEP.unpack_from(self._packed, at)
            )
            at += _STEP.size
            commits = tuple(_COMMIT.iter_unpack(self._packed[at : at + count * _COMMIT.size]))
            at += count * _COMMIT.size
            positions, percents = zip(*commits, strict=True) if commits else ((), ())
            yield StepRecord(
                t_ms, start, stop, chunk, frontier, masks, advance, positions, percents, batch, queue, step_ms,
                REASONS[reason],
            )  # fmt: skip


_STEP = Struct("=dd8iBi")
_COMMIT = Struct("=iB")
"""A position, and how sure the model was of it in percent."""
