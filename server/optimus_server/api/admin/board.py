"""What the admin pages show live: figures, the timeline of chunk sizes, decisions, and the requests that run.

Kept by the event loop whether a page is open or not; four times a second it becomes one event for all pages. What
changes slowly or takes long to sum up goes with every fourth.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from optimus_server.api.admin.cells import StepTimes, Yields
from optimus_server.api.admin.figures import Ends, Steps
from optimus_server.api.admin.running import Requests
from optimus_server.engine.telemetry import Decision, StepTrace
from optimus_server.service import Service
from optimus_server.store.recorder import Recorder

TICK_S = 0.25
SLOW = 4
TIMELINE = 480
"""Points of the timeline, one a tick: two minutes."""
TAIL = 100
AUDIT = 20


class Board:
    """Touched by the event loop only.

    Args:
        block_size: of the model.
        recorder: of the request log, if there is one, for its queue and its losses.

    Attributes:
        tail: decisions that changed the chunk size or its reason, newest last.
        marks: of each tick the last decision that changed the chunk size or that the controller was not free in.
        timeline: what each tick has seen, newest last.
        audit: what operators have done, newest last.
    """

    def __init__(
        self, service: Service, block_size: int, recorder: Recorder | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._service = service
        self._recorder = recorder
        self._clock = clock
        self._ticks = 0
        self._last: Decision | None = None
        self._new: list[dict[str, Any]] = []
        self._rows: list[int] = []
        self._ends = Ends()
        self._steps = Steps(clock())
        self._times = StepTimes()
        self._yields = Yields()
        self.requests = Requests(block_size, clock)
        self.tail: deque[dict[str, Any]] = deque(maxlen=TAIL)
        self.marks: deque[dict[str, Any]] = deque(maxlen=TIMELINE)
        self.timeline: deque[dict[str, Any]] = deque(maxlen=TIMELINE)
        self.audit: deque[dict[str, Any]] = deque(maxlen=AUDIT)

    def told(self, event: dict[str, Any]) -> None:
        """Of the beginning or the end of a request."""
        match event["type"]:
            case "request_start":
                self.requests.began(event)
            case "request_end":
                self.requests.ended(event["request_id"])
                self._ends.ended(event)
            case "request_refused":
                self._ends.refused(event)

    def stepped(self, trace: StepTrace) -> None:
        """A step of the engine."""
        decision = trace.decision
        self._steps.add(trace)
        self._times.add(trace)
        self._yields.add(trace.at, trace.rows)
        self._rows.append(decision.rows)
        self.requests.stepped(trace)
        before, self._last = self._last, decision
        if before is None or (before.chunk, before.reason) != (decision.chunk, decision.reason):
            entry = _entry(trace, before)
            self.tail.append(entry)
            self._new.append(entry)

    def tick(self, *, watched: bool) -> dict[str, Any]:
        """Go on by one point of the timeline.

        Args:
            watched: somebody wants to know everything that has happened since the last tick, and how things stand.
        """
        new, self._new = self._new[-TAIL:], []
        rows, self._rows = self._rows, []
        last = self._last if rows else None
        point = {
            "at": round(self._clock(), 3), "batch": max(rows, default=0), "chunk": last.chunk if last else 0,
            "smallest": last.smallest if last else 0, "largest": last.largest if last else 0,
        }  # fmt: skip
        self.timeline.append(point)
        marked = [one for one in new if one["before"] != one["chunk"] or one["reason"] in ("manual", "slo")]
        self.marks.extend(marked[-1:])
        self._ticks += 1
        if not watched:
            return {}
        return {"point": point, "decisions": new} | (self.slow() if self._ticks % SLOW == 0 else {}) | self.now()

    def now(self) -> dict[str, Any]:
        """The figures of steps, the requests and the knobs."""
        return {"figures": self._figures(), "requests": self.requests.shown(), "knobs": self.knobs()}

    def slow(self) -> dict[str, Any]:
        """The figures of requests, tables, and what operators did."""
        now = self._clock()
        return {
            "slow": self._ends.figures(now) | self._log(), "times": self._times.table(),
            "yields": self._yields.table(now), "audit": list(self.audit),
        }  # fmt: skip

    def knobs(self) -> dict[str, Any]:
        knobs = self._service.knobs
        tpot = None if knobs.tpot_s is None else round(knobs.tpot_s * 1e3, 3)
        return {"chunk": knobs.chunk, "tpot_ms": tpot, "paused": knobs.paused, "closed": knobs.closed}

    def _figures(self) -> dict[str, Any]:
        service, load = self._service, self._service.load()
        return self._steps.figures(self._clock()) | {
            "running": load.running, "waiting": load.waiting + service.held, "held": service.held,
            "kv_percent": round(100 * (1 - load.free_pages / load.pages), 1) if load.pages else 0.0,
            "problem": service.problem,
        }  # fmt: skip

    def _log(self) -> dict[str, Any]:
        if self._recorder is None:
            return {"log_waiting": None, "log_dropped": None, "log_problem": None}
        counts = self._recorder.counts()
        return {"log_waiting": counts.waiting, "log_dropped": counts.dropped, "log_problem": counts.problem}


def _entry(trace: StepTrace, before: Decision | None) -> dict[str, Any]:
    """A decision as the pages show it."""
    decision = trace.decision
    return {
        "number": trace.number, "at": round(trace.at, 3), "queue": decision.waiting, "batch": decision.rows,
        "before": before.chunk if before else None, "chunk": decision.chunk, "smallest": decision.smallest,
        "largest": decision.largest, "reason": decision.reason, "kv_percent": round(100 * decision.kv_used, 1),
        "positions": decision.positions, "prefill": decision.prefill,
        "expected": round(decision.expected_commits, 1), "committed": trace.committed,
        "predicted_ms": round(decision.predicted_s * 1e3, 2), "observed_ms": round(trace.observed_s * 1e3, 2),
    }  # fmt: skip
