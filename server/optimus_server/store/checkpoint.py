"""Brings SQLite's write-ahead log into the file, in a thread of its own.

SQLite would do it in a commit, which then waits for the disk, for seconds if the disk is busy; and what is not
committed is lost when the process is killed. Here the writer's commits go on meanwhile. Only the first one after a
checkpoint waits, for one page.
"""

import contextlib
import logging
import sqlite3
import threading

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

logger = logging.getLogger(__name__)

EVERY_S = 10.0


class Checkpoints(threading.Thread):
    """Runs until it is stopped.

    Args:
        engine: that writes the log; its pool gives this thread a connection of its own.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="request-log-checkpoint", daemon=True)
        self._engine = engine
        self._stopped = threading.Event()

    def stop(self, timeout_s: float) -> None:
        self._stopped.set()
        self.join(timeout_s)

    def run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            checkpoint(self._engine)


def checkpoint(engine: Engine) -> bool:
    """Bring over what no reader holds back, without keeping anybody waiting; False if that cannot be done now."""
    try:
        with contextlib.closing(engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except (sqlite3.Error, SQLAlchemyError) as error:
        logger.debug("No checkpoint: %s", error)
        return False
    return True
