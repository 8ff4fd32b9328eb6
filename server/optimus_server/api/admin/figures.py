"""The figures at the head of the page: of steps over the last seconds, of requests over the last minutes."""

import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

from optimus_server.api.ledger import LEFT
from optimus_server.engine.request import FinishReason
from optimus_server.engine.telemetry import StepTrace

STEPS_S = 10.0
REQUESTS_S = 300.0
MOST = 20_000
"""Steps and requests remembered at most."""

_ENDS = frozenset({*get_args(FinishReason), LEFT})


class _Step(NamedTuple):
    """Of one step; its trace would hold on to every commit."""

    at: float
    observed_ms: float
    predicted_ms: float
    rows: int
    committed: int


class Steps:
    """The steps of the last ten seconds."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._window: deque[_Step] = deque(maxlen=MOST)
        self._chunk: int | None = None

    def add(self, trace: StepTrace) -> None:
        decision = trace.decision
        self._chunk = decision.chunk or None
        self._window.append(
            _Step(trace.at, trace.observed_s * 1e3, decision.predicted_s * 1e3, decision.rows, trace.committed)
        )

    def figures(self, now: float) -> dict[str, Any]:
        """None where there was no step. ``step_off_percent`` is by how much steps took longer than predicted."""
        window = self._window
        while window and window[0].at < now - STEPS_S:
            window.popleft()
        times = sorted(step.observed_ms for step in window)
        predicted = [step for step in window if step.predicted_ms > 0]
        commits, rows = sum(step.committed for step in window), sum(step.rows for step in window)
        off = [step.observed_ms / step.predicted_ms for step in predicted]
        return {
            "tokens_s": round(commits / max(1.0, min(STEPS_S, now - self._started)), 1),
            "tokens_step": round(commits / rows, 2) if rows else None,
            "chunk": self._chunk if window else None,
            "step_p50_ms": _rounded(times, 0.5),
            "step_p95_ms": _rounded(times, 0.95),
            "predicted_p50_ms": _rounded(sorted(step.predicted_ms for step in predicted), 0.5),
            "step_off_percent": round(100 * (statistics.median(off) - 1)) if off else None,
        }


class Ends:
    """How requests of the last five minutes have ended: their time to first token, and what went wrong."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, str, float | None]] = deque(maxlen=MOST)

    def ended(self, event: dict[str, Any]) -> None:
        kind = "answered" if event["outcome"] in _ENDS else "failed"
        self._window.append((event["at"], kind, event["ttft_ms"]))

    def refused(self, event: dict[str, Any]) -> None:
        self._window.append((event["at"], "refused" if event["status"] < 500 else "failed", None))

    def figures(self, now: float) -> dict[str, Any]:
        """``refused`` counts requests that were answered with 4xx, ``failed`` those with 5xx or an error event."""
        while self._window and self._window[0][0] < now - REQUESTS_S:
            self._window.popleft()
        first = sorted(ms for _, _, ms in self._window if ms is not None)
        kinds = [kind for _, kind, _ in self._window]
        return {
            "ended": len(kinds), "refused": kinds.count("refused"), "failed": kinds.count("failed"),
            "ttft_p50_ms": _rounded(first, 0.5), "ttft_p95_ms": _rounded(first, 0.95),
        }  # fmt: skip


def _rounded(ascending: Sequence[float], share: float) -> float | None:
    """A percentile in milliseconds, None of nothing."""
    return round(ascending[int(share * (len(ascending) - 1))], 1) if ascending else None
