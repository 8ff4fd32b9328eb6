"""What the log is told: plain values, so that whoever tells it needs no database and the log needs no server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """One run of a server; see ``tables.Instance``."""

    id: str
    started_us: int
    version: str
    model_id: str
    device: str
    block_size: int | None = None
    logit_shift: int | None = None
    git_sha: str | None = None
    model_sha: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


class StepRecord(NamedTuple):
    """One step of one request; a tuple, because a busy server makes tens of thousands a second.

    Attributes:
        t_ms: its end, since the request's arrival.
        start, stop: the row that was computed.
        chunk: chunk size in force.
        frontier: first position not committed, before the step.
        masks: masks offered; 0 in prefill.
        advance: by how much the frontier moved.
        positions: what was committed, absolute, ascending.
        percents: how sure the model was of each of them.
        batch, queue: rows in the step, requests that waited.
        step_ms: how long the step took.
        reason: why the chunk had this size.
    """

    t_ms: float
    start: int
    stop: int
    chunk: int
    frontier: int
    masks: int
    advance: int
    positions: tuple[int, ...]
    percents: tuple[int, ...]
    batch: int
    queue: int
    step_ms: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request, when it is over; the fields without a word here are those of ``tables.Request``.

    Attributes:
        prompt, output: text, of which the log keeps what ``--log-text`` allows; None if there is none.
        pieces: characters that each token added to ``output``.
        trace: its steps, if somebody has watched them.
    """

    request_id: str
    created_us: int
    endpoint: str
    status: int
    total_ms: float
    choice: int = 0
    stream: bool | None = None
    client: str | None = None
    user_agent: str | None = None
    error_type: str | None = None
    error: str | None = None
    finish_reason: str | None = None
    cancelled: bool = False
    params: Mapping[str, object] = field(default_factory=dict)
    seed: int | None = None
    policy: str | None = None
    prompt: str | None = None
    prompt_tokens: int | None = None
    max_new_tokens: int | None = None
    generated_tokens: int | None = None
    wasted_tokens: int | None = None
    prefix_hit_tokens: int | None = None
    computed_positions: int | None = None
    steps: int | None = None
    blocks: int | None = None
    queue_depth_in: int | None = None
    validation_ms: float | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    decode_ms: float | None = None
    output: str | None = None
    pieces: tuple[int, ...] = ()
    trace: tuple[StepRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision on the chunk; see ``tables.ChunkDecision``."""

    t_us: int
    batch: int
    queue: int
    kv: float
    chunk_old: int
    chunk_new: int
    chunk_min: int
    chunk_max: int
    reason: str
    positions: int
    prefill: int
    kv_tokens: int
    expected_commits: float
    commits: int
    predicted_ms: float
    actual_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRecord:
    """How busy the server was in one second; see ``tables.LoadSample``."""

    t_us: int
    running: int
    waiting: int
    batch: float
    tok_s: float
    kv: float
    step_ms_p50: float | None = None
    chunk_p50: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """What an operator did; see ``tables.OperatorAction``."""

    t_us: int
    action: str
    detail: str
    address: str


Record = RequestRecord | DecisionRecord | LoadRecord | ActionRecord
