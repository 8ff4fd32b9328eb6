"""Records for the tests of the log."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from optimus_server.store.privacy import Privacy
from optimus_server.store.recorder import Recorder
from optimus_server.store.records import (
    ActionRecord,
    DecisionRecord,
    InstanceRecord,
    LoadRecord,
    RequestRecord,
    StepRecord,
)
from optimus_server.store.retention import Retention
from optimus_server.store.session import log_url

KEY = bytes(range(32))
NOW_US = 1_800_000_000_000_000
HOUR_US = 3600 * 10**6


def instance(name: str = "one", **changes: Any) -> InstanceRecord:
    fields: dict[str, Any] = {"started_us": NOW_US, "version": "1", "model_id": "org/model", "device": "cpu"}
    return InstanceRecord(id=name, **fields | changes)


def request(number: int = 0, **changes: Any) -> RequestRecord:
    """An answered request; each ``number`` a second after the one before."""
    fields: dict[str, Any] = {
        "request_id": f"request-{number}", "created_us": NOW_US + number * 10**6, "endpoint": "/generate",
        "status": 200, "total_ms": 100.0, "stream": True, "finish_reason": "length", "policy": "chunk",
        "prompt": f"prompt {number}", "output": "an answer", "pieces": (2, 1, 6), "prompt_tokens": 7,
        "max_new_tokens": 6, "generated_tokens": 6, "wasted_tokens": 1, "prefix_hit_tokens": 0,
        "computed_positions": 12, "steps": 3, "blocks": 2, "queue_depth_in": 0, "validation_ms": 1.0,
        "queue_ms": 2.0, "ttft_ms": 10.0, "decode_ms": 90.0, "trace": trace(),
    }  # fmt: skip
    return RequestRecord(**fields | changes)


def trace(start: int = 7, chunk: int = 4) -> tuple[StepRecord, ...]:
    """A step of prefill, then three of two tokens each."""
    starts = range(start, start + 6, 2)
    return (
        StepRecord(5.0, 0, start, chunk, start, 0, 0, (), (), 2, 1, 4.0, "idle"),
        *(
            StepRecord(10.0 * (i + 1), at, at + chunk, chunk, at, chunk, 2, (at, at + 1), (99, 50), 2, 1, 4.5, "hold")
            for i, at in enumerate(starts)
        ),
    )


def decision(number: int = 0, **changes: Any) -> DecisionRecord:
    fields: dict[str, Any] = {
        "t_us": NOW_US + number * 10**6, "batch": 3, "queue": 1, "kv": 0.25, "chunk_old": 8, "chunk_new": 16,
        "chunk_min": 12, "chunk_max": 16, "positions": 48, "prefill": 0, "kv_tokens": 300, "expected_commits": 9.5,
        "commits": 10, "reason": "load_down", "predicted_ms": 10.0, "actual_ms": 12.0,
    }  # fmt: skip
    return DecisionRecord(**fields | changes)


def load(number: int = 0, **changes: Any) -> LoadRecord:
    fields: dict[str, Any] = {
        "t_us": NOW_US + number * 10**6, "running": 3, "waiting": 1, "batch": 2.5, "tok_s": 100.0, "kv": 0.5,
        "step_ms_p50": 10.0, "chunk_p50": 8.0,
    }  # fmt: skip
    return LoadRecord(**fields | changes)


def action(number: int = 0, **changes: Any) -> ActionRecord:
    fields: dict[str, Any] = {
        "t_us": NOW_US + number * 10**6, "action": "set", "detail": f"chunk {number}", "address": "127.0.0.1",
    }  # fmt: skip
    return ActionRecord(**fields | changes)


@contextlib.contextmanager
def recording(
    place: str,
    *,
    log_text: str = "hash",
    limits: Retention | None = None,
    name: str = "one",
    busy_s: float = 0.05,
    **changes: Any,
) -> Iterator[Recorder]:
    """A recorder that is closed at the end, and has then written what it was told."""
    recorder = Recorder(
        log_url(place), instance(name, **changes), Privacy.of(log_text, KEY), limits or Retention(), busy_s=busy_s
    )
    try:
        yield recorder
    finally:
        recorder.close()


def settled(recorder: Recorder, timeout_s: float = 10.0) -> None:
    """Wait until everything is written."""
    deadline = time.monotonic() + timeout_s
    while recorder.counts().waiting:
        assert time.monotonic() < deadline, recorder.counts()
        time.sleep(0.01)
