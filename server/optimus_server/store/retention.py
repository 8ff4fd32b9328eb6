"""What is forgotten, and when: by age, and by size where the log is a file.

Each step deletes at most 1,000 requests in a transaction of its own, so that records are written between two of them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Delete, Engine, delete, func, select
from sqlalchemy.orm import aliased

from optimus_server.store.tables import ChunkDecision, Instance, LoadSample, OperatorAction, Request

AT_ONCE = 1000
PAGES_AT_ONCE = 4000
DAY_US = 86_400 * 10**6
MINUTE_US = 60 * 10**6


@dataclass(frozen=True, slots=True)
class Retention:
    """Limits; None is none.

    Attributes:
        mebibytes: of an SQLite file. PostgreSQL keeps the space of deleted rows for new ones, so its size says nothing.
    """

    days: int | None = None
    mebibytes: int | None = None


def sweep(engine: Engine, limits: Retention, now_us: int | None = None) -> Iterator[int]:
    """Forget what is beyond the limits, one step each time it is advanced; yields how many requests that deleted."""
    now_us = time.time_ns() // 1000 if now_us is None else now_us
    with engine.begin() as connection:
        connection.execute(_thinning(now_us - DAY_US))
    yield 0
    if limits.days is not None:
        oldest = now_us - limits.days * DAY_US
        yield from _repeat(engine, lambda _: oldest)
        with engine.begin() as connection:
            connection.execute(delete(OperatorAction).where(OperatorAction.t_us < oldest))
            connection.execute(_unused_instances(oldest))
    if engine.dialect.name == "sqlite":
        if limits.mebibytes is not None:
            limit = limits.mebibytes * 2**20
            yield from _repeat(engine, lambda connection: now_us if _size(connection) > limit else 0)
        yield from _shrink(engine)


def _repeat(engine: Engine, bound: Callable[[Connection], int]) -> Iterator[int]:
    """Delete the oldest requests below a time that is asked for anew at each step, and all else that is as old."""
    deleted = AT_ONCE
    while deleted == AT_ONCE:
        with engine.begin() as connection:
            before = bound(connection)
            ids = select(Request.id).where(Request.created_us < before).order_by(Request.created_us).limit(AT_ONCE)
            deleted = connection.execute(delete(Request).where(Request.id.in_(ids))).rowcount
            remaining = connection.scalar(select(func.min(Request.created_us)))
            oldest = before if remaining is None else min(before, remaining)
            connection.execute(delete(ChunkDecision).where(ChunkDecision.t_us < oldest))
            connection.execute(delete(LoadSample).where(LoadSample.t_us < oldest))
        yield deleted


def _thinning(before_us: int) -> Delete:
    """Of old load samples, only the first of each minute stays."""
    earlier = aliased(LoadSample)
    same_minute = select(earlier.t_us).where(
        earlier.instance_id == LoadSample.instance_id,
        earlier.t_us < LoadSample.t_us,
        earlier.t_us >= LoadSample.t_us - LoadSample.t_us % MINUTE_US,
    )
    return delete(LoadSample).where(LoadSample.t_us < before_us, same_minute.exists())


def _unused_instances(before_us: int) -> Delete:
    used = [
        select(table.instance_id).where(table.instance_id == Instance.id).exists()
        for table in (Request, ChunkDecision, LoadSample, OperatorAction)
    ]
    return delete(Instance).where(Instance.stopped_us < before_us, *(~rows for rows in used))


def _size(connection: Connection) -> int:
    pages, free, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _shrink(engine: Engine) -> Iterator[int]:
    """Give the space of deleted rows back to the file system."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()

        def free() -> int:
            return int(cursor.execute("PRAGMA freelist_count").fetchone()[0])

        before = shrunk = free()
        while before:
            cursor.execute(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})").fetchall()
            yield 0
            after = free()
            before = after if after < before else 0
        if shrunk:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        cursor.execute("PRAGMA optimize").fetchall()
    finally:
        raw.close()
