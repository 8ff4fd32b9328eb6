"""The schema's way from any revision to the newest one: ``optimus migrate``, and every start of a server."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, inspect, select, text
from sqlalchemy.exc import DatabaseError

from optimus_server.errors import SettingsError
from optimus_server.store.session import file_of, shown, writer
from optimus_server.store.tables import Base, Instance

logger = logging.getLogger(__name__)

Mode = Literal["auto", "check", "off"]

_PG_LOCK = 0x6F7074696D7573
"""Key of the advisory lock under which PostgreSQL logs are migrated: "optimus" in ASCII."""


def migrations() -> Path:
    """The directory of the scripts: inside the installed package, or at the root of a checkout."""
    package = Path(str(files("optimus_server")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parents[1] / "migrations"


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without an alembic.ini."""
    configuration = Config()
    configuration.set_main_option("script_location", str(migrations()))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    return configuration


def head() -> str:
    """The newest revision this code knows."""
    newest = ScriptDirectory.from_config(config()).get_current_head()
    assert newest
    return newest


def revision(connection: Connection) -> str | None:
    """The revision a log is at; None if it has no tables yet."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(url: URL, mode: Mode = "auto") -> str | None:
    """Bring a log to the newest revision, under a lock that processes starting together share.

    Args:
        mode: ``check`` refuses a log that is not at the newest revision, ``off`` does not look.

    Returns:
        The revision the log had before, None for a new one.

    Raises:
        SettingsError: the log is newer than this code, is no log, is out of date under ``check``, or cannot be opened.
    """
    if mode == "off":
        return None
    engine = writer(url, foreign_keys=False)
    try:
        with _lock(url, engine):
            return _migrate(url, engine, mode)
    except DatabaseError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise SettingsError(f"the request log {shown(url)}: {reason}", param="log_db") from error
    finally:
        engine.dispose()


def _migrate(url: URL, engine: Engine, mode: Mode) -> str | None:
    newest = head()
    with engine.connect() as connection:
        before = revision(connection)
        _refuse_strangers(url, connection, before)
    if before == newest:
        return before
    if mode == "check":
        raise SettingsError(
            f"the request log {shown(url)} is at revision {before}, this Optimus needs {newest}: run optimus migrate",
            param="log_db",
        )
    if before is not None:
        _back_up(url, engine, before)
    with engine.connect() as connection:
        command.upgrade(config(connection), "head")
    logger.info("Request log %s: revision %s -> %s", shown(url), before or "none", newest)
    return before


def _refuse_strangers(url: URL, connection: Connection, at: str | None) -> None:
    script = ScriptDirectory.from_config(config())
    known = {entry.revision for entry in script.walk_revisions()}
    if at is not None and at not in known:
        raise SettingsError(
            f"the request log {shown(url)} is at revision {at}, which this Optimus does not know (its newest is "
            f"{script.get_current_head()}): a newer Optimus wrote it. Upgrade, or choose another --log-db",
            param="log_db",
        )
    if at is None and (taken := set(Base.metadata.tables) & set(inspect(connection).get_table_names())):
        raise SettingsError(
            f"{shown(url)} is no request log of Optimus, but has tables {', '.join(sorted(taken))}: "
            "choose another --log-db",
            param="log_db",
        )


def _back_up(url: URL, engine: Engine, before: str) -> None:
    """Copy an SQLite log that is not empty to a file beside it. PostgreSQL's operators have pg_dump."""
    file = file_of(url)
    with engine.connect() as connection:
        if file is None or connection.scalar(select(Instance.id).limit(1)) is None:
            return
    copy = file.with_name(f"{file.name}.{before}.{time.time_ns() // 10**6}.bak")
    # VACUUM runs outside of transactions, so not through SQLAlchemy's.
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM INTO ?", (str(copy),))
    finally:
        raw.close()
    copy.chmod(file.stat().st_mode & 0o777)
    logger.info("Request log %s: copied to %s before its upgrade", file, copy)


@contextmanager
def _lock(url: URL, engine: Engine) -> Iterator[None]:
    """One process at a time. Without it, processes that start together on a new file fail one time in three."""
    if (file := file_of(url)) is None:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _PG_LOCK})
            connection.commit()
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _PG_LOCK})
        return
    try:
        with file.with_name(file.name + ".migrate.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise SettingsError(f"the request log {file}: {error.strerror}", param="log_db") from error
