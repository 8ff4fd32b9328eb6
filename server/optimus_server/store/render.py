"""Answers to questions as tables and bars for a terminal."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from rich.bar import Bar
from rich.console import Group as Lines
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optimus_server.store.answers import ChunkUse, Detail, Group
from optimus_server.store.queries import By, Row
from optimus_server.store.records import StepRecord

BAR = 24
LEVELS = " ▁▂▃▄▅▆▇█"


def requests(rows: Sequence[Row]) -> Table:
    table = _table("time", "request", "status", "client", "tokens", "tok/step", "queue", "ttft", "total", "", "end")
    slowest = max((row["total_ms"] for row in rows), default=1.0)
    for row in rows:
        table.add_row(
            when(row["created_us"]), row["request_id"][:32], _status(row), row["client"],
            f"{_n(row['prompt_tokens'])} + {_n(row['generated_tokens'])}", _f(row["tokens_per_step"]),
            _ms(row["queue_ms"]), _ms(row["ttft_ms"]), _ms(row["total_ms"]),
            Bar(slowest, 0, row["total_ms"], width=BAR // 2), row["finish_reason"] or row["error_type"],
        )  # fmt: skip
    return table


def stats(by: By, groups: Sequence[Group]) -> Table:
    table = _table(
        by, "requests", "", "failed", "left", "tokens", "tok/step", "pos/tok", "ttft p50", "p95", "total p50", "p95", ""
    )
    most = max((group.requests for group in groups), default=1)
    slowest = max((group.total_p95 or 0 for group in groups), default=0) or 1.0
    for group in groups:
        key = when(int(group.key)) if by in ("hour", "day") and group.key is not None else _n(group.key)
        table.add_row(
            key, str(group.requests), Bar(most, 0, group.requests, width=BAR // 2),
            str(group.failed), str(group.cancelled), f"{group.prompt_tokens} + {group.generated_tokens}",
            _f(group.tokens_per_step), _f(group.positions_per_token),
            _ms(group.ttft_p50), _ms(group.ttft_p95), _ms(group.total_p50), _ms(group.total_p95),
            Bar(slowest, group.total_p50 or 0, group.total_p95 or 0, width=BAR),
        )  # fmt: skip
    return table


def chunks(uses: Sequence[ChunkUse]) -> Table:
    table = _table("chunk", "rows", "", "committed/row", "utilization", "", "batch", "step")
    most = max((use.rows for use in uses), default=1)
    for use in uses:
        table.add_row(
            str(use.chunk), str(use.rows), Bar(most, 0, use.rows, width=BAR), _f(use.committed),
            f"{use.utilization:.0%}", Bar(1, 0, use.utilization, width=BAR), f"{use.batch:.1f}", _ms(use.step_ms),
        )  # fmt: skip
    return table


def reasons(rows: Sequence[Row]) -> Table:
    table = _table("reason", "decisions", "", "chunk", "batch", "prediction off by")
    most = max((row["decisions"] for row in rows), default=1)
    for row in rows:
        table.add_row(
            row["reason"], str(row["decisions"]), Bar(most, 0, row["decisions"], width=BAR), _f(row["chunk"]),
            _f(row["batch"]), "" if row["error"] is None else f"{row['error']:.0%}",
        )  # fmt: skip
    return table


def detail(found: Detail) -> Lines:
    """Everything about one request."""
    row = found.request
    facts = Table.grid(padding=(0, 2))
    for name, value in row.items():
        if value is not None and name not in ("prompt_hmac",):
            facts.add_row(Text(name, "bold"), Text(when(value) if name == "created_us" else _n(value)))
    parts: list[Any] = [Panel(facts, title=row["request_id"], expand=False)]
    if found.steps:
        parts += [strip(found.steps), timings(row)]
    for name, text in (("prompt", found.prompt), ("output", found.output)):
        if text is not None:
            parts.append(Panel(Text(text), title=name + (" (truncated)" if found.truncated else ""), expand=False))
    return Lines(*parts)


def strip(steps: Sequence[StepRecord]) -> Text:
    """A column per step: the chunk it was given, and how much of it was committed."""
    offered = [step for step in steps if step.masks]
    top = max((step.chunk for step in offered), default=1)
    lines = [
        ("chunk     ", [step.chunk for step in offered]),
        ("committed ", [len(step.positions) for step in offered]),
    ]
    return Text("\n").join([Text(name + _columns(values, top) + f"  of {top}") for name, values in lines])


def timings(row: Row) -> Table:
    """Where the time went, as a waterfall."""
    table = _table("phase", "ms", "")
    phases = [(name, row[f"{name}_ms"]) for name in ("validation", "queue", "prefill")]
    phases.append(("denoise", max(0.0, (row["decode_ms"] or 0.0) - (row["prefill_ms"] or 0.0))))
    at = 0.0
    for name, spent in phases:
        end = min(at + (spent or 0.0), row["total_ms"])
        table.add_row(name, _ms(spent), Bar(row["total_ms"] or 1.0, at, end, width=2 * BAR))
        at = end
    return table


def when(us: int) -> str:
    """Local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(us / 1e6))


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    words = ("time", "request", "client", "end", "reason", "hour", "day", "phase", "endpoint", "policy")
    for name in names:
        table.add_column(name, justify="left" if name in (*words, "") else "right", no_wrap=True)
    return table


def _columns(values: Iterable[int], top: int) -> str:
    return "".join(LEVELS[min(len(LEVELS) - 1, -(-value * (len(LEVELS) - 1) // top))] for value in values)


def _status(row: Row) -> Text:
    return Text(str(row["status"]), "red" if row["status"] >= 400 else "yellow" if row["cancelled"] else "")


def _n(value: Any) -> str:
    return "" if value is None else str(value)


def _f(value: float | None) -> str:
    return "" if value is None else f"{float(value):.2f}"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
