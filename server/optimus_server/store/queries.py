"""Questions to a request log, for the admin pages, the command line and notebooks.

    log = Log("log.db")
    pandas.DataFrame(log.stats("hour"))

Rows of tables are dicts, figures are frozen dataclasses. Nothing here writes.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from sqlalchemy import URL, ColumnElement, Select, case, func, select

from optimus_server.store.answers import ChunkUse, Detail, Group
from optimus_server.store.records import StepRecord
from optimus_server.store.session import log_url, reader
from optimus_server.store.steps import decode
from optimus_server.store.tables import (
    ChunkDecision,
    Instance,
    LoadSample,
    OperatorAction,
    Request,
    RequestSteps,
    RequestText,
)

By = Literal["hour", "day", "client", "endpoint", "policy", "finish_reason", "status", "error_type"]
Row = dict[str, Any]
GROUPS: tuple[By, ...] = get_args(By)

SAMPLE = 20_000
"""Percentiles of many more requests than these are those of a sample: the arrivals whose microsecond is a multiple of
some number."""

_SPANS: dict[str, int] = {"hour": 3600 * 10**6, "day": 86_400 * 10**6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which requests; what is None or False does not matter.

    Attributes:
        since_us, until_us: of arrival; the second is exclusive.
        failed: with status 400 or more.
        min_ms: that took at least so long.
    """

    since_us: int | None = None
    until_us: int | None = None
    status: int | None = None
    failed: bool = False
    client: str | None = None
    endpoint: str | None = None
    finish_reason: str | None = None
    min_ms: float | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        equal = {
            Request.status: self.status,
            Request.client: self.client,
            Request.endpoint: self.endpoint,
            Request.finish_reason: self.finish_reason,
        }
        found: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
        if self.since_us is not None:
            found.append(Request.created_us >= self.since_us)
        if self.until_us is not None:
            found.append(Request.created_us < self.until_us)
        if self.min_ms is not None:
            found.append(Request.total_ms >= self.min_ms)
        if self.failed:
            found.append(Request.status >= 400)
        return found


EVERYTHING = Filter()


class Log:
    """A log, opened for reading.

    Args:
        place: a path or a PostgreSQL URL, as ``--log-db``, or such a place as a URL object.

    Raises:
        SettingsError: there is no such file, or the driver is missing.
    """

    def __init__(self, place: str | URL) -> None:
        self._engine = reader(place if isinstance(place, URL) else log_url(place))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._engine.dispose()

    def requests(self, which: Filter = EVERYTHING, *, limit: int = 50, before: str | None = None) -> list[Row]:
        """Requests, newest first.

        Args:
            before: the ``id`` of the last request of the page before.
        """
        query = select(Request.__table__).where(*which.conditions())
        if before is not None:
            query = query.where(Request.created_us <= int(before[:14], 16), Request.id < before)
        return self.rows(query.order_by(Request.created_us.desc(), Request.id.desc()).limit(limit))

    def request(self, name: str) -> Detail | None:
        """One request by its ``id`` or by its ``request_id``; of several with the same, the newest."""
        query = select(Request.__table__).where((Request.id == name) | (Request.request_id == name))
        found = self.rows(query.order_by(Request.created_us.desc()).limit(1))
        if not found:
            return None
        row = found[0]
        instance = self.rows(select(Instance.__table__).where(Instance.id == row["instance_id"]))[0]
        texts = self.rows(select(RequestText.__table__).where(RequestText.request_id == row["id"]))
        blobs = self.rows(select(RequestSteps.__table__).where(RequestSteps.request_id == row["id"]))
        text = texts[0] if texts else defaultdict(lambda: None)
        return Detail(
            row,
            instance,
            decode(blobs[0]["v"], blobs[0]["data"]) if blobs else [],
            text["prompt"],
            text["output"],
            json.loads(text["pieces_json"] or "[]"),
            bool(text["truncated"]),
        )

    def stats(self, by: By, which: Filter = EVERYTHING) -> list[Group]:
        """Figures of requests grouped by a column or by time; in order of the key."""
        key = _key(by)
        failed = func.sum(case((Request.status >= 400, 1), else_=0))
        sums = [func.sum(column) for column in (Request.prompt_tokens, Request.generated_tokens, Request.steps)]
        query = select(
            key, func.count(), failed, func.sum(case((Request.cancelled, 1), else_=0)), *sums,
            func.sum(Request.computed_positions),
        ).where(*which.conditions()).group_by(key)  # fmt: skip
        answered = select(key, Request.ttft_ms, Request.total_ms).where(*which.conditions(), Request.status < 400)
        times: dict[Any, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
        with self._engine.connect() as connection:
            groups = connection.execute(query).all()
            stride = max(1, sum(group[1] for group in groups) // SAMPLE)
            for group, ttft, total in connection.execute(answered.where(Request.created_us % stride == 0)):
                first, whole = times[group]
                if ttft is not None:
                    first.append(ttft)
                whole.append(total)
        return sorted(
            (
                Group(
                    name, requests, int(failures), int(left), int(prompt or 0), int(tokens or 0),
                    _ratio(tokens, steps), _ratio(computed, tokens),
                    *_percentiles(times[name][0]), *_percentiles(times[name][1]),
                )
                for name, requests, failures, left, prompt, tokens, steps, computed in groups
            ),
            key=lambda group: (group.key is None, group.key),
        )  # fmt: skip

    def chunks(self, which: Filter = EVERYTHING, *, newest: int = 2000) -> list[ChunkUse]:
        """What chunks were used and how they did, from the steps of the newest requests that have any."""
        sums: dict[int, list[float]] = defaultdict(lambda: [0, 0, 0, 0, 0.0])
        for steps in self.steps(which, newest=newest):
            for step in steps:
                if step.masks:
                    of = sums[step.chunk]
                    width = step.stop - step.start
                    for i, value in enumerate((1, len(step.positions), width, step.batch, step.step_ms)):
                        of[i] += value
        return [
            ChunkUse(chunk, int(rows), commits / rows, commits / width, batch / rows, ms / rows)
            for chunk, (rows, commits, width, batch, ms) in sorted(sums.items())
        ]

    def steps(self, which: Filter = EVERYTHING, *, newest: int) -> Iterator[list[StepRecord]]:
        """The steps of requests, newest first."""
        query = (
            select(RequestSteps.v, RequestSteps.data)
            .join(Request, Request.id == RequestSteps.request_id)
            .where(*which.conditions())
            .order_by(Request.created_us.desc())
            .limit(newest)
        )
        with self._engine.connect() as connection:
            for version, data in connection.execute(query):
                yield decode(version, data)

    def decisions(self, since_us: int = 0, until_us: int | None = None, *, limit: int = 1000) -> list[Row]:
        """Decisions on the chunk, newest first."""
        query = select(ChunkDecision.__table__).where(ChunkDecision.t_us >= since_us)
        if until_us is not None:
            query = query.where(ChunkDecision.t_us < until_us)
        return self.rows(query.order_by(ChunkDecision.t_us.desc()).limit(limit))

    def reasons(self, since_us: int = 0) -> list[Row]:
        """Decisions by reason: how many, and how well their step times were predicted."""
        error = func.avg(func.abs(ChunkDecision.actual_ms / ChunkDecision.predicted_ms - 1))
        query = select(
            ChunkDecision.reason,
            func.count().label("decisions"),
            func.avg(ChunkDecision.chunk_new).label("chunk"),
            func.avg(ChunkDecision.batch).label("batch"),
            error.label("error"),
        )
        query = query.where(ChunkDecision.t_us >= since_us).group_by(ChunkDecision.reason)
        return self.rows(query.order_by(func.count().desc()))

    def load(self, since_us: int, until_us: int, *, points: int = 240) -> list[Row]:
        """Load samples of all instances, averaged to at most so many points in time."""
        width = max(1, -(-(until_us - since_us) // points))
        t_us = (LoadSample.t_us - since_us) // width * width + since_us
        means = ("running", "waiting", "batch", "tok_s", "step_ms_p50", "chunk_p50", "kv")
        query = select(t_us.label("t_us"), *(func.avg(LoadSample.__table__.c[name]).label(name) for name in means))
        query = query.where(LoadSample.t_us >= since_us, LoadSample.t_us < until_us)
        return self.rows(query.group_by(t_us).order_by(t_us))

    def actions(self, *, limit: int = 50, before: int | None = None) -> list[Row]:
        """What operators did, newest first.

        Args:
            before: the ``id`` of the last action of the page before.
        """
        query = select(OperatorAction.__table__)
        if before is not None:
            query = query.where(OperatorAction.id < before)
        return self.rows(query.order_by(OperatorAction.id.desc()).limit(limit))

    def first_load(self, since_us: int) -> int | None:
        """When the first load sample from a time on was taken; None if there is none."""
        query = select(func.min(LoadSample.t_us).label("t_us")).where(LoadSample.t_us >= since_us)
        first: int | None = self.rows(query)[0]["t_us"]
        return first

    def batches(self, query: Select[*tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a query, so many at a time, without holding all of them."""
        with self._engine.connect().execution_options(yield_per=size) as connection:
            for part in connection.execute(query).partitions():
                yield [tuple(row) for row in part]

    def rows(self, query: Select[*tuple[Any, ...]]) -> list[Row]:
        """The rows of any query on ``store.tables``."""
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _key(by: By) -> ColumnElement[Any]:
    """What a group has in common. Times are cut by arithmetic, which every database does alike."""
    if span := _SPANS.get(by):
        return (Request.created_us - Request.created_us % span).label("key")
    # The identity keeps SQLite from reading the whole index of a column to save sorting a day's rows.
    return func.coalesce(Request.__table__.c[by], None).label("key")


def _percentiles(values: list[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    p50, p95 = np.percentile(values, (50, 95))
    return float(p50), float(p95)


def _ratio(over: float | None, under: float | None) -> float | None:
    return float(over or 0) / float(under) if under else None
