"""The engine's traces as JSON objects: what a step did to a request, and the decision behind it.

Positions are counted from the beginning of the answer. The text of a position is its token alone, for show; the text of
the answer comes in the tokens of the stream. A committed position is never revised, so ``revise`` is empty.
"""

from collections.abc import Callable
from typing import Any

from optimus_server.engine.telemetry import Decision, RowTrace, StepTrace


def decision_object(decision: Decision) -> dict[str, Any]:
    return {
        "chunk": decision.chunk,
        "chunk_min": decision.smallest,
        "chunk_max": decision.largest,
        "chunk_reason": decision.reason,
        "batch": decision.rows,
        "queue": decision.waiting,
        "kv_used": round(decision.kv_used, 4),
        "positions": decision.positions,
        "prefill": decision.prefill,
        "expected_commits": round(decision.expected_commits, 3),
        "predicted_ms": round(decision.predicted_s * 1e3, 3),
    }


def row_object(row: RowTrace, text: Callable[[int], str], *, prompt: int, block_size: int) -> dict[str, Any]:
    """One request's part of a step.

    Args:
        text: token id -> its text.
        prompt: length of the request's prompt.
    """
    return {
        "step": row.step,
        "block": row.frontier // block_size - prompt // block_size,
        "start": row.start - prompt,
        "stop": row.stop - prompt,
        "chunk": row.chunk,
        "masked": row.masks,
        "commit": [[position - prompt, i, text(i), confidence] for position, i, confidence in row.commits],
        "revise": [],
        "frontier": row.frontier - prompt,
    }


def step_object(
    trace: StepTrace, row: RowTrace, text: Callable[[int], str], *, prompt: int, block_size: int, since: float
) -> dict[str, Any]:
    """The ``diffusion`` key of a step inside a stream.

    Args:
        since: when the request began, seconds since 1970.
    """
    decision = trace.decision
    return {
        "v": 1,
        "type": "step",
        "t_ms": round((trace.at + trace.observed_s - since) * 1e3, 1),
        "step_ms": round(trace.observed_s * 1e3, 3),
        "chunk_reason": decision.reason,
        "batch": decision.rows,
        "queue": decision.waiting,
    } | row_object(row, text, prompt=prompt, block_size=block_size)
