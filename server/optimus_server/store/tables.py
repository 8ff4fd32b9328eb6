"""The tables of the request log. Each column's comment is its documentation; README.md prints them.

Times are integers, microseconds since 1970 in UTC: SQLite has no type for them. Durations are in milliseconds. Where
OpenTelemetry's gen_ai conventions have a name for a column, it stands at the end of the comment.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """Constraints have names by rule: SQLite changes a table by copying it, and Alembic must find them again."""

    metadata = MetaData(naming_convention=_CONVENTION)
    type_annotation_map = {int: BigInteger, float: Double, bool: Boolean, bytes: LargeBinary}  # noqa: RUF012


def _column(comment: str, *arguments: Any, **options: Any) -> Any:
    return mapped_column(*arguments, comment=comment, **options)


_Short = String(64)


class Instance(Base):
    """One row per run of the server."""

    __tablename__ = "instances"

    id: Mapped[str] = _column("sorts by start", _Short, primary_key=True)
    started_us: Mapped[int] = _column("start of the server")
    stopped_us: Mapped[int | None] = _column("its end; null while it runs, and for ever if it was killed")
    version: Mapped[str] = _column("of Optimus", _Short)
    git_sha: Mapped[str | None] = _column("commit of Optimus, where it runs from a checkout", _Short)
    model_id: Mapped[str] = _column("as served; gen_ai.request.model", Text)
    model_sha: Mapped[str | None] = _column("first 16 hex digits of the SHA-256 of the checkpoint's config", _Short)
    block_size: Mapped[int | None] = _column("positions of a block, B")
    logit_shift: Mapped[int | None] = _column("1 if the output at a position predicts the next one, else 0")
    device: Mapped[str] = _column("cpu, cuda", _Short)
    settings_json: Mapped[str] = _column("settings that differ from their defaults, without keys", Text)
    recorded: Mapped[int] = _column("requests, decisions and load samples this instance has written", default=0)
    dropped: Mapped[int] = _column("records and steps this instance had to drop; its server log says why", default=0)


class Request(Base):
    """One row per request, however it ended; several if it asked for several choices. Written when it ended."""

    __tablename__ = "requests"

    id: Mapped[str] = _column("arrival in microseconds, then 32 random bits, all in hex", String(24), primary_key=True)
    request_id: Mapped[str] = _column("x-request-id, which a client may repeat; gen_ai.response.id", String(128))
    choice: Mapped[int] = _column("which of its HTTP request's prompts and choices, from 0")
    instance_id: Mapped[str] = _column("the server that answered", ForeignKey("instances.id"))
    created_us: Mapped[int] = _column("arrival of the request")
    endpoint: Mapped[str] = _column("path of the route", _Short)
    stream: Mapped[bool | None] = _column("whether a stream was asked for; null if the body was not understood")
    client: Mapped[str | None] = _column("keyed hash of the API key, 8 bytes in hex; null without a key", _Short)
    user_agent: Mapped[str | None] = _column("the client's library, first 200 characters", String(200))

    status: Mapped[int] = _column("HTTP status; 499 if the client left before the first byte")
    error_type: Mapped[str | None] = _column("code of the error, also of one after the first byte", _Short)
    error: Mapped[str | None] = _column("its message; holds sizes and names, never text of a prompt", Text)
    finish_reason: Mapped[str | None] = _column(
        "eos_token, length, stop_sequence, cancelled; gen_ai.response.finish_reasons", _Short
    )
    cancelled: Mapped[bool] = _column("the client left before the end")

    params_json: Mapped[str | None] = _column(
        "decoding parameters that differ from Optimus's defaults; temperature is gen_ai.request.temperature, "
        "top_p gen_ai.request.top_p",
        Text,
    )
    seed: Mapped[str | None] = _column("decimal: it may need 64 bits without a sign; gen_ai.request.seed", String(20))
    policy: Mapped[str | None] = _column("decoding policy", _Short)
    prompt_hmac: Mapped[bytes | None] = _column("HMAC-SHA256 of the prompt: equal prompts have equal values")
    prompt_tokens: Mapped[int | None] = _column("gen_ai.usage.input_tokens")
    max_new_tokens: Mapped[int | None] = _column("gen_ai.request.max_tokens")
    generated_tokens: Mapped[int | None] = _column("tokens sent, the end token included; gen_ai.usage.output_tokens")
    wasted_tokens: Mapped[int | None] = _column("tokens committed but never sent")
    prefix_hit_tokens: Mapped[int | None] = _column("prompt tokens whose KV was shared")
    computed_positions: Mapped[int | None] = _column("positions computed beyond the prompt, once per step")

    steps: Mapped[int | None] = _column("steps after prefill")
    blocks: Mapped[int | None] = _column("blocks the answer touches")
    chunk_min: Mapped[int | None] = _column("smallest chunk of the steps that offered masks")
    chunk_max: Mapped[int | None] = _column("largest chunk of those")
    chunk_mean: Mapped[float | None] = _column("mean chunk of those")
    tokens_per_step: Mapped[float | None] = _column("generated_tokens / steps")
    batch_mean: Mapped[float | None] = _column("mean number of rows in its steps")
    batch_max: Mapped[int | None] = _column("largest number of rows in its steps")
    queue_depth_in: Mapped[int | None] = _column("requests that waited when it arrived")

    validation_ms: Mapped[float | None] = _column("arrival to valid prompt")
    queue_ms: Mapped[float | None] = _column("valid prompt to its first row")
    prefill_ms: Mapped[float | None] = _column("first row to the first step that offered masks")
    ttfc_ms: Mapped[float | None] = _column("arrival to the first committed position")
    ttft_ms: Mapped[float | None] = _column("arrival to the first token sent; gen_ai.server.time_to_first_token")
    decode_ms: Mapped[float | None] = _column("first row to the end of decoding")
    total_ms: Mapped[float] = _column("arrival to the last byte; gen_ai.server.request.duration")

    __table_args__ = (
        # Wide, so that the filters and figures of the admin pages are answered from the index alone.
        Index(
            "ix_requests_created",
            *("created_us", "status", "client", "endpoint", "finish_reason", "cancelled", "total_ms", "ttft_ms"),
            *("prompt_tokens", "generated_tokens", "steps", "computed_positions"),
        ),
        Index(None, "client", "created_us"),
        Index(None, "request_id"),
        Index(
            "ix_requests_failed",
            "created_us",
            sqlite_where=text("status >= 400"),
            postgresql_where=text("status >= 400"),
        ),
    )


class RequestText(Base):
    """Prompt and answer; only with ``--log-text truncate:N`` or ``full``."""

    __tablename__ = "request_text"

    request_id: Mapped[str] = _column("requests.id", ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True)
    prompt: Mapped[str] = _column("as written, or as the chat template made it", Text)
    output: Mapped[str] = _column("the answer as it was sent", Text)
    pieces_json: Mapped[str | None] = _column("characters each token added to the answer, for replay", Text)
    truncated: Mapped[bool] = _column("prompt or output were cut")


class RequestSteps(Base):
    """The steps of one request: one blob, since a request has dozens to hundreds of them."""

    __tablename__ = "request_steps"

    request_id: Mapped[str] = _column("requests.id", ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True)
    v: Mapped[int] = _column("form of the blob; 1: zlib of a JSON object of columns, see store/steps.py")
    n: Mapped[int] = _column("steps in it")
    data: Mapped[bytes] = _column("the blob")


class ChunkDecision(Base):
    """What the controller decided: every change, and one in so many of the steps between."""

    __tablename__ = "chunk_decisions"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, comment="counts up")
    instance_id: Mapped[str] = _column("the server that decided", ForeignKey("instances.id"))
    t_us: Mapped[int] = _column("time of the step")
    batch: Mapped[int] = _column("requests that decoded in the step")
    queue: Mapped[int] = _column("requests waiting")
    kv: Mapped[float] = _column("share of the KV pool in use, 0 to 1")
    chunk_old: Mapped[int] = _column("chunk of a typical row before")
    chunk_new: Mapped[int] = _column("chunk of a typical row now; 0 if none decodes")
    chunk_min: Mapped[int] = _column("smallest chunk of a row in the step")
    chunk_max: Mapped[int] = _column("largest chunk of a row in the step")
    reason: Mapped[str] = _column("why, from the short list in engine/telemetry.py", _Short)
    positions: Mapped[int] = _column("positions computed in the step, prompt included")
    prefill: Mapped[int] = _column("positions of prompt among them")
    kv_tokens: Mapped[int] = _column("KV tokens read in the step")
    expected_commits: Mapped[float] = _column("tokens expected to be committed")
    commits: Mapped[int] = _column("tokens committed")
    predicted_ms: Mapped[float] = _column("step time the latency model expected")
    actual_ms: Mapped[float] = _column("step time observed")

    __table_args__ = (Index(None, "t_us"),)


class LoadSample(Base):
    """How busy a server was: once a second, thinned to once a minute after a day."""

    __tablename__ = "load_samples"

    t_us: Mapped[int] = _column("time of the sample", primary_key=True)
    instance_id: Mapped[str] = _column("the server", ForeignKey("instances.id"), primary_key=True)
    running: Mapped[int] = _column("requests being decoded")
    waiting: Mapped[int] = _column("requests queued")
    batch: Mapped[float] = _column("mean rows a step since the sample before")
    tok_s: Mapped[float] = _column("tokens committed per second since then")
    step_ms_p50: Mapped[float | None] = _column("median step time since then; null without a step")
    chunk_p50: Mapped[float | None] = _column("median chunk of the rows since then")
    kv: Mapped[float] = _column("share of the KV pool in use, 0 to 1")

    # Stored in the order of time, by which all questions ask.
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012


class OperatorAction(Base):
    """What operators did on the admin pages. Forgotten by age only: a full log keeps its audit trail."""

    __tablename__ = "operator_actions"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, comment="counts up")
    instance_id: Mapped[str] = _column("the server", ForeignKey("instances.id"))
    t_us: Mapped[int] = _column("time of the action")
    action: Mapped[str] = _column("login, logout, set, pause, drain, cancel", _Short)
    detail: Mapped[str] = _column("what was set to what, or which request", Text)
    address: Mapped[str] = _column("where the operator's browser was", _Short)
