"""What questions to a request log are answered with."""

from dataclasses import dataclass
from typing import Any

from optimus_server.store.records import StepRecord


@dataclass(frozen=True, slots=True)
class Detail:
    """All the log knows of one request: its columns, its instance's, its steps, and its text if it was kept."""

    request: dict[str, Any]
    instance: dict[str, Any]
    steps: list[StepRecord]
    prompt: str | None
    output: str | None
    pieces: list[int]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Figures of some requests; milliseconds are of those that did not fail, None where nothing is known.

    Attributes:
        key: their common value; of hour and day, when it began, in microseconds.
        tokens_per_step: generated tokens over steps.
        positions_per_token: computed positions over generated tokens, the price of a token.
    """

    key: int | str | None
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    generated_tokens: int
    tokens_per_step: float | None
    positions_per_token: float | None
    ttft_p50: float | None
    ttft_p95: float | None
    total_p50: float | None
    total_p95: float | None


@dataclass(frozen=True, slots=True)
class ChunkUse:
    """How rows of one chunk size that offered masks have done.

    Attributes:
        committed: tokens committed per row.
        utilization: committed over computed positions.
        batch, step_ms: means over the rows' steps.
    """

    chunk: int
    rows: int
    committed: float
    utilization: float
    batch: float
    step_ms: float
