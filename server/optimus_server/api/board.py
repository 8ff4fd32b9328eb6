"""What the admin pages show: the last steps and decisions, and the requests that run.

Kept by the event loop whether a page is open or not; four times a second it becomes one event for all pages.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optimus_server.engine.telemetry import Decision, RowTrace, StepTrace
from optimus_server.service import Service

TICK_S = 0.25
WINDOW_S = 10.0
TIMELINE = 480
"""Points of the timeline, one a tick: two minutes."""
TAIL = 100
LIVE = 64
"""Requests shown; of more the oldest."""
CELL = 64


@dataclass(slots=True)
class Live:
    """One request that runs; ``row`` is its part of the last step that had it."""

    at: float
    path: str
    prompt_tokens: int
    max_new_tokens: int
    row: RowTrace | None = None
    batch: int = 0


class Board:
    """Touched by the event loop only.

    Attributes:
        tail: decisions that changed the chunk size or its reason, newest last.
        timeline: what each tick has seen, newest last.
        audit: what operators have done, newest last.
    """

    def __init__(self, service: Service, clock: Callable[[], float] = time.time) -> None:
        self._service = service
        self._clock = clock
        self._started = clock()
        self._window: deque[tuple[float, float, int, int]] = deque(maxlen=20_000)
        self._cells: dict[tuple[int, int], deque[tuple[float, float]]] = {}
        self._last: Decision | None = None
        self._new: list[dict[str, Any]] = []
        self._rows: list[int] = []
        self.live: dict[str, Live] = {}
        self.tail: deque[dict[str, Any]] = deque(maxlen=TAIL)
        self.timeline: deque[dict[str, Any]] = deque(maxlen=TIMELINE)
        self.audit: deque[dict[str, Any]] = deque(maxlen=20)

    def told(self, event: dict[str, Any]) -> None:
        """Of the beginning or the end of a request."""
        if event["type"] == "request_start":
            self.live[event["request_id"]] = Live(
                event["at"], event["path"], event["prompt_tokens"], event["max_new_tokens"]
            )
        else:
            self.live.pop(event["request_id"], None)

    def stepped(self, trace: StepTrace) -> None:
        """A step of the engine."""
        decision, seconds = trace.decision, trace.observed_s
        self._window.append((trace.at, seconds, trace.committed, decision.rows))
        self._rows.append(decision.rows)
        for row in trace.rows:
            if live := self.live.get(row.request_id):
                live.row, live.batch = row, decision.rows
        if decision.rows and not decision.prefill:
            cell = self._cells.setdefault((decision.chunk, decision.rows), deque(maxlen=CELL))
            cell.append((seconds, decision.predicted_s))
        before, self._last = self._last, decision
        if before is None or (before.chunk, before.reason) != (decision.chunk, decision.reason):
            entry = {
                "at": round(trace.at, 3), "queue": decision.waiting, "batch": decision.rows,
                "before": before.chunk if before else None, "chunk": decision.chunk, "smallest": decision.smallest,
                "largest": decision.largest, "reason": decision.reason, "kv_used": round(decision.kv_used, 4),
                "predicted_ms": round(decision.predicted_s * 1e3, 2), "observed_ms": round(seconds * 1e3, 2),
            }  # fmt: skip
            self.tail.append(entry)
            self._new.append(entry)

    def tick(self) -> dict[str, Any]:
        """Everything that has happened since the last tick, and how things stand."""
        new, self._new = self._new[-TAIL:], []
        rows, self._rows = self._rows, []
        last = self._last
        point = {
            "at": round(self._clock(), 3), "batch": max(rows, default=0),
            "chunk": last.chunk if rows and last else 0,
            "smallest": last.smallest if rows and last else 0, "largest": last.largest if rows and last else 0,
        }  # fmt: skip
        self.timeline.append(point)
        return {"point": point, "decisions": new, "audit": list(self.audit)} | self.now()

    def now(self) -> dict[str, Any]:
        """The figures, the requests and the knobs."""
        return {"figures": self.figures(), "requests": self.requests(), "knobs": self.knobs()}

    def figures(self) -> dict[str, Any]:
        """Of the last ten seconds; step times are None where there was no step."""
        service, load, now = self._service, self._service.load(), self._clock()
        while self._window and self._window[0][0] < now - WINDOW_S:
            self._window.popleft()
        times = sorted(seconds * 1e3 for _, seconds, _, _ in self._window)
        commits, rows = sum(entry[2] for entry in self._window), sum(entry[3] for entry in self._window)
        return {
            "running": load.running,
            "waiting": load.waiting + service.held,
            "held": service.held,
            "tokens_s": round(commits / max(1.0, min(WINDOW_S, now - self._started)), 1),
            "tokens_step": round(commits / rows, 2) if rows else None,
            "step_p50_ms": round(statistics.median(times), 2) if times else None,
            "step_p95_ms": round(times[int(0.95 * (len(times) - 1))], 2) if times else None,
            "kv_percent": round(100 * (1 - load.free_pages / load.pages), 1) if load.pages else 0.0,
            "problem": service.problem,
        }

    def knobs(self) -> dict[str, Any]:
        knobs = self._service.knobs
        tpot = None if knobs.tpot_s is None else round(knobs.tpot_s * 1e3, 3)
        return {"chunk": knobs.chunk, "tpot_ms": tpot, "paused": knobs.paused, "closed": knobs.closed}

    def requests(self) -> list[dict[str, Any]]:
        """Those that have run longest; positions are counted from the beginning of the answer."""
        now, found = self._clock(), []
        for request_id, live in list(self.live.items())[:LIVE]:
            row, age = live.row, max(0.0, now - live.at)
            done = min(live.max_new_tokens, max(0, row.frontier - live.prompt_tokens)) if row else 0
            found.append(
                {
                    "id": request_id, "path": live.path, "age_s": round(age, 1), "prompt": live.prompt_tokens,
                    "max": live.max_new_tokens, "done": done, "chunk": row.chunk if row else None,
                    "stop": min(live.max_new_tokens, max(done, row.stop - live.prompt_tokens)) if row else 0,
                    "steps": row.step if row else 0, "tokens_s": round(done / age, 1) if age > 0.2 else None,
                }
            )  # fmt: skip
        return found

    def cells(self) -> list[dict[str, Any]]:
        """Measured against predicted step times of chunk x batch, without steps that computed prompt."""
        return [
            {
                "chunk": chunk, "batch": batch, "steps": len(cell),
                "observed_ms": round(statistics.median(observed for observed, _ in cell) * 1e3, 2),
                "predicted_ms": round(statistics.median(predicted for _, predicted in cell) * 1e3, 2),
            }
            for (chunk, batch), cell in sorted(self._cells.items())
        ]  # fmt: skip
