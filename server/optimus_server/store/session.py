"""Database engines: from a path or URL to connections that are set up for their database."""

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from optimus_server.errors import SettingsError

BUSY_S = 5.0
"""How long a writer waits for another one's lock before it fails, and tries again."""

PAGE_BYTES = 8192
JOURNAL_BYTES = 64 * 2**20
"""What SQLite's write-ahead log shrinks back to after a burst."""


def log_url(place: str) -> URL:
    """The log at a path or at the URL of a PostgreSQL database.

    Example: ``log.db`` -> ``sqlite+pysqlite:////data/log.db``, ``postgres://host/db`` -> ``postgresql+psycopg://host/db``

    Raises:
        SettingsError: another database, or no URL at all.
    """
    if "://" not in place:
        return URL.create("sqlite+pysqlite", database=str(Path(place).expanduser().absolute()))
    try:
        url = make_url(place.replace("postgres://", "postgresql://", 1))
    except (ArgumentError, ValueError):
        raise SettingsError("--log-db must be a path or a URL such as postgresql://host/database") from None
    if url.get_backend_name() == "sqlite" and url.database:
        return log_url(url.database)
    if url.get_backend_name() != "postgresql":
        raise SettingsError(f"--log-db must be a path or postgresql://... Given: {url.drivername}://...")
    return url.set(drivername="postgresql+psycopg")


def file_of(url: URL) -> Path | None:
    """The file of an SQLite log; None for PostgreSQL."""
    return Path(url.database) if url.database and url.get_backend_name() == "sqlite" else None


def shown(url: URL) -> str:
    """A log's name for messages, without a password."""
    return str(file_of(url) or url.set(drivername="postgresql").render_as_string(hide_password=True))


def writer(url: URL, *, busy_s: float = BUSY_S, foreign_keys: bool = True, checkpoints: bool = True) -> Engine:
    """An engine whose transactions take SQLite's write lock as they begin, so that none finds it taken half-way.

    Args:
        busy_s: how long a transaction waits for another one's lock.
        foreign_keys: off for migrations: SQLite changes a table by copying and dropping it, and with foreign keys the
            drop would delete all that hangs on its rows.
        checkpoints: SQLite's commits bring the write-ahead log into the file now and then; off if somebody else does.

    Raises:
        SettingsError: the driver is missing, or the directory cannot be made.
    """
    if (file := file_of(url)) is None:
        patience = {"connect_timeout": int(busy_s) + 1, "options": f"-c lock_timeout={int(busy_s * 1000)}"}
        return _engine(url, pool_pre_ping=True, connect_args=patience)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"the request log {file}: {error.strerror}") from None
    engine = _engine(url, connect_args={"timeout": busy_s, "check_same_thread": False})
    event.listen(engine, "connect", _set_up_writer)
    if not foreign_keys:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = OFF"))
    if not checkpoints:
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA wal_autocheckpoint = 0"))
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reader(url: URL) -> Engine:
    """An engine that cannot write; in WAL mode a reader and the writer do not wait for each other.

    Raises:
        SettingsError: the file does not exist, or the driver is missing.
    """
    if (file := file_of(url)) is None:
        return _engine(url, pool_pre_ping=True, execution_options={"postgresql_readonly": True})
    if not file.exists():
        raise SettingsError(f"there is no request log {file}")
    readonly = url.set(database=f"file:{quote(str(file))}", query={"mode": "ro", "uri": "true"})
    engine = _engine(readonly, connect_args={"timeout": BUSY_S, "check_same_thread": False})
    event.listen(engine, "connect", _set_up_reader)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _engine(url: URL, **options: Any) -> Engine:
    try:
        return create_engine(url, **options)
    except ModuleNotFoundError:
        raise SettingsError("--log-db on PostgreSQL needs psycopg: pip install 'optimus-dllm[postgres]'") from None


def _set_up_reader(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where SQLAlchemy says, not where Python's driver would guess; so a migration is one.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _set_up_writer(connection: sqlite3.Connection, record: object) -> None:
    _set_up_reader(connection, record)
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        # Both only before the first table, and before WAL mode writes the file's first page. Filters without an index
        # of their own read all of another one, which takes fewer reads of larger pages.
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    # In WAL mode this loses nothing when the process is killed; a power cut may take the last commits.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
