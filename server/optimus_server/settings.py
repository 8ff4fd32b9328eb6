"""Every setting of the server, declared once.

From one declaration come the flag, the environment variable, the check, the line in ``--help`` and the row in
README.md; ``flags`` makes them.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

MAX_CONTEXT = 1 << 20

LADDER = re.compile(r"[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*")
LOG_TEXT = re.compile(r"none|hash|full|truncate:([1-9][0-9]{0,6})")


def _tgi(default: Any, text: str, *, short: str | None = None, alias: str | None = None, **options: Any) -> Any:
    return _declared(default, text, {"tgi": True, "short": short, "alias": alias}, **options)


def _ours(default: Any, text: str, **options: Any) -> Any:
    return _declared(default, text, {"tgi": False}, **options)


def _declared(default: Any, text: str, extra: dict[str, JsonValue], *, secret: bool = False, **bounds: Any) -> Any:
    """Args: secret: used and never shown, see ``Settings.shown``."""
    extra["secret"] = secret
    return Field(default, description=text, json_schema_extra=extra, repr=not secret, **bounds)


class Settings(BaseModel):
    """All settings, checked against their ranges and against each other.

    What depends on the checkpoint (lengths, block size) is checked when it is loaded, in ``app``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_id: str | None = _tgi(None, "model directory, as the argument MODEL; default: the demo model", min_length=1)
    hostname: str = _tgi("127.0.0.1", "address to listen on; 0.0.0.0 is every interface", min_length=1)
    port: int = _tgi(3000, "port to listen on; 0 picks a free one", short="-p", ge=0, le=65535)
    device: str | None = _ours(None, "cpu, cuda or cuda:N; default: cuda if there is one", min_length=1)
    engine_in: Literal["thread", "process"] | None = _ours(
        None, "where the engine runs: in a thread of the server or in a process of its own; default: process on a GPU"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = _tgi(
        None, "of weights and computation; default: float32 on cpu, bfloat16 elsewhere"
    )
    threads: int | None = _ours(
        None, "CPU threads of the model; default: one less than the cores, which leaves one to the event loop", ge=1
    )
    block_size: int | None = _ours(None, "block size B; default: the checkpoint's", ge=1, le=4096)
    mask_token_id: int | None = _ours(None, "mask token; default: the checkpoint's", ge=0)
    policy: Literal["block", "chunk", "refresh", "stale", "stream"] = _ours(
        "chunk", "decoding policy of requests that name none"
    )
    chunk: int | None = _ours(
        None, "chunk size of requests that name none, at most 2B; default: auto, chosen step by step", ge=1, le=8192
    )
    chunk_ladder: str | None = _ours(
        None, "chunk sizes that auto chooses from, ascending, comma separated; default: 1 (2 without shift) to 2B"
    )
    tpot_slo_ms: float | None = _ours(
        None, "target for the time per output token, in ms, for requests that name none", gt=0, le=60_000
    )
    threshold: float | None = _ours(
        None, "confidence above which a token commits; default: the checkpoint's", ge=0, le=1
    )
    no_profile: bool = _ours(False, "do not measure step times at the first start: learn them from traffic")
    max_concurrent_requests: int = _tgi(128, "requests in flight; further ones get 429 at once", ge=1)
    max_queue_tokens: int | None = _ours(
        None, "tokens, of prompts and possible answers, that may wait for their first step; more is a 429", ge=1
    )
    request_timeout: float | None = _ours(None, "seconds a request may take, its time in the queue included", gt=0)
    max_stop_sequences: int = _tgi(4, "stop sequences a request may have", ge=0)
    ignore_unsupported_parameters: bool = _ours(
        False, "drop parameters that cannot be honored instead of refusing them; answers name them in a header"
    )
    max_best_of: int = _tgi(2, "answers that `best_of` may choose from", ge=1)
    max_client_batch_size: int = _tgi(4, "answers one OpenAI request may ask for: its prompts times `n`", ge=1)
    max_top_n_tokens: int = _tgi(5, "alternatives a request may ask for with `top_n_tokens`", ge=0, le=100)
    max_input_tokens: int | None = _tgi(
        None,
        "tokens a prompt may have; default: max_total_tokens - 1",
        alias="--max-input-length",
        ge=1,
        le=MAX_CONTEXT,
    )
    max_total_tokens: int | None = _tgi(
        None, "tokens of prompt and answer together; default: what the checkpoint and the KV pool can hold",
        ge=2, le=MAX_CONTEXT,
    )  # fmt: skip
    max_batch_prefill_tokens: int | None = _tgi(
        None, "prompt tokens one step may compute; default: 512 on cpu, 2048 elsewhere", ge=1
    )
    max_batch_total_tokens: int | None = _tgi(
        None,
        "size of the KV pool in tokens; default: by memory (0.5 GiB on cpu, 80 % of what is free on a GPU)",
        ge=1,
    )
    max_batch_size: int = _tgi(64, "requests decoded together", ge=1, le=4096)
    kv_pages: int | None = _ours(None, "size of the KV pool in pages, instead of max_batch_total_tokens", ge=1)
    page_size: int = _ours(32, "tokens a KV page holds", ge=1, le=4096)
    no_prefix_cache: bool = _ours(False, "do not share KV between requests that begin alike")
    payload_limit: int = _tgi(2_000_000, "bytes a request body may have; more is a 413", ge=1)
    api_key: str | None = _tgi(
        None, "key that requests must send as `Authorization: Bearer KEY`", min_length=1, secret=True
    )
    admin_token: str | None = _ours(
        None,
        "what opens /admin; without it the page exists only where `hostname` is this machine itself",
        min_length=8,
        secret=True,
    )
    cors_allow_origin: str | None = _tgi(None, "origins browsers may call from, comma separated; default: any")
    graceful_termination_timeout: int = _tgi(
        90, "seconds that running requests get after SIGTERM", short="-g", ge=0, le=86_400
    )
    json_output: bool = _tgi(False, "log JSON lines")
    no_playground: bool = _ours(False, "do not serve the page /playground/")
    playground_load: bool = _ours(
        False,
        "let visitors of /playground/ put up to 64 requests on the server for two minutes, to see what load does",
    )
    # A database's URL may hold a password.
    log_db: str | None = _ours(
        None,
        "request log: a file, a postgresql:// URL, or off; default: log.db in ~/.local/state/optimus",
        min_length=1,
        secret=True,
    )
    log_text: str = _ours("hash", "what the log keeps of prompts and answers: none, hash, truncate:N or full")
    log_retention_days: int = _ours(30, "days after which the log forgets a request", ge=1, le=36_500)
    log_max_mb: int = _ours(2048, "MiB an SQLite log may have; beyond, it forgets the oldest requests", ge=8)
    db_migrate: Literal["auto", "check", "off"] = _ours(
        "auto", "at start bring the log's tables up to date, refuse to start if they are not, or do not look"
    )
    compute_type: str | None = _tgi(None, "value of the header x-compute-type; default: by device", min_length=1)

    @field_validator("chunk", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @field_validator("chunk_ladder")
    @classmethod
    def _ladder(cls, value: str | None) -> str | None:
        sizes = [int(size) for size in value.split(",")] if value and LADDER.fullmatch(value) else []
        if value is not None and (not sizes or sizes != sorted(set(sizes))):
            raise ValueError("ascending chunk sizes from 1 to 9999, as in 4,8,16")
        return value

    @field_validator("log_text")
    @classmethod
    def _log_text(cls, value: str) -> str:
        if not LOG_TEXT.fullmatch(value):
            raise ValueError("none, hash, full or truncate:N with N from 1 to 9999999")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Settings that contradict each other, in TGI's words where it has them."""
        if self.max_input_tokens and self.max_total_tokens and self.max_input_tokens >= self.max_total_tokens:
            raise ValueError(
                "`max_input_tokens` must be < `max_total_tokens`. "
                f"Given: {self.max_input_tokens} and {self.max_total_tokens}"
            )
        if self.kv_pages and self.max_batch_total_tokens:
            raise ValueError("`kv_pages` and `max_batch_total_tokens` both size the KV pool: give one of them")
        pool = self.max_batch_total_tokens or (self.kv_pages or 0) * self.page_size
        if self.max_total_tokens and pool and self.max_total_tokens > pool:
            raise ValueError(
                f"`max_total_tokens` must be <= `max_batch_total_tokens`. Given: {self.max_total_tokens} and {pool}"
            )
        return self

    def shown(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """Settings by name, for pages and logs; of a secret only whether it is ``set``."""
        values = self.model_dump(exclude_defaults=exclude_defaults)
        return {name: "set" if value and name in SECRETS else value for name, value in values.items()}

    @property
    def local(self) -> bool:
        """Only this machine can reach the server."""
        return self.hostname == "localhost" or (
            is_address(self.hostname) and ipaddress.ip_address(self.hostname).is_loopback
        )

    @property
    def origins(self) -> list[str]:
        return [origin.strip() for origin in self.cors_allow_origin.split(",")] if self.cors_allow_origin else ["*"]

    @property
    def log_place(self) -> str | None:
        """Path or URL of the request log; None if there is to be none."""
        return None if self.log_db == "off" else self.log_db or str(state_directory() / "log.db")


SECRETS = frozenset(
    name
    for name, field in Settings.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("secret")
)


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where Optimus keeps what it is not told to keep elsewhere."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "optimus"


def default_threads() -> int:
    """CPU threads of a model when nobody says: all cores but one, which the event loop and the clients need.

    Torch's threads wait for each other by spinning, so one of them without a core of its own stalls all. On two cores
    (AMD EPYC) a step took 14.2 ms with one thread and 47.9 ms with two while another program kept one core busy, 14.1
    and 10.4 ms while none did: `optimus bench decode --batch 1 --chunk 32 --rounds 1 --threads N`.
    """
    return max(1, len(os.sched_getaffinity(0)) - 1) if hasattr(os, "sched_getaffinity") else 1


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
