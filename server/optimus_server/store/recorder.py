"""The writer of the log: any thread hands records over and goes on, one thread writes them.

A record waits in memory for about 0.2 s, then it is committed together with those that came meanwhile. While the
database cannot be written (locked, disk full, server away) records wait, up to a limit; beyond it they are dropped and
counted. Whatever happens here, requests are answered.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import URL, Connection
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError

from optimus_server.store.checkpoint import Checkpoints
from optimus_server.store.privacy import Privacy
from optimus_server.store.records import InstanceRecord, Record, RequestRecord
from optimus_server.store.retention import Retention, sweep
from optimus_server.store.rows import Row, insert_rows, rows_of, upsert
from optimus_server.store.session import BUSY_S, file_of, shown, writer
from optimus_server.store.tables import Instance

logger = logging.getLogger(__name__)

FLUSH_S = 0.2
MAX_RECORDS = 10_000
MAX_CHARACTERS = 64 * 2**20
"""Of prompts and answers that wait: a full disk must not become a full memory."""
BATCH = 500
COMPLAIN_S = 60.0
SWEEP_S = 3600.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

_OUTAGES = (OperationalError, InternalError, InterfaceError)
"""Errors of the database rather than of a row: locked, disk full, connection lost."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What has become of the records so far.

    Attributes:
        waiting: records in memory.
        problem: why the database cannot be written just now, if it cannot.
    """

    recorded: int
    dropped: int
    waiting: int
    problem: str | None


class Recorder:
    """Writes records to one log until it is closed.

    Args:
        url: of a log at the newest revision, see ``migrate``.
        busy_s: how long a write waits for another process before it counts as failed and is tried again.
    """

    def __init__(
        self, url: URL, instance: InstanceRecord, privacy: Privacy, limits: Retention, *, busy_s: float = BUSY_S
    ) -> None:
        self.instance_id = instance.id
        self.url = url
        self.privacy = privacy
        self._name = shown(url)
        self._limits = limits
        self._engine = writer(url, busy_s=busy_s, checkpoints=False)
        self._checkpoints = Checkpoints(self._engine) if file_of(url) else None
        self._lock = threading.Lock()
        self._waiting: list[Record] = []
        self._characters = 0
        self._taken = 0
        self._recorded = self._dropped = 0
        self._problem: str | None = None
        self._complained_at = float("-inf")
        self._refused = False
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._signature = _instance_row(instance)
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()
        if self._checkpoints:
            self._checkpoints.start()

    def submit(self, record: Record) -> bool:
        """Take a record to be written; False if too many wait already, and this one is dropped."""
        characters = _characters(record)
        with self._lock:
            waiting = len(self._waiting) + self._taken
            fits = waiting < MAX_RECORDS and self._characters + characters <= MAX_CHARACTERS
            if fits:
                self._waiting.append(record)
                self._characters += characters
            else:
                self._dropped += 1
                self._refused = True
        return fits

    def lose(self, count: int) -> None:
        """Count what was lost on its way here."""
        with self._lock:
            self._dropped += count

    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._recorded, self._dropped, len(self._waiting) + self._taken, self._problem)

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, and end. What cannot be written in time is lost, which the server's log then says."""
        self._deadline = time.monotonic() + timeout_s
        before = self.counts()
        self._closing.set()
        self._thread.join(timeout_s + 1)
        if self._checkpoints:
            self._checkpoints.stop(timeout_s)
        after = self.counts()
        if lost := after.waiting + after.dropped - before.dropped:
            logger.warning("Request log %s: %d records are lost (%s)", self._name, lost, self._problem or "see above")
        if not (self._thread.is_alive() or (self._checkpoints and self._checkpoints.is_alive())):
            self._engine.dispose()

    def _run(self) -> None:
        steps: Iterator[int] = iter(())
        due = time.monotonic()
        closing = False
        self._write([])
        while not closing:
            closing = self._closing.wait(FLUSH_S)
            self._flush()
            if time.monotonic() >= due:
                steps, due = sweep(self._engine, self._limits), time.monotonic() + SWEEP_S
            try:
                next(steps, None)
            except SQLAlchemyError as error:
                self._complain(f"cannot be pruned: {_reason(error)}")
        try:
            with self._engine.begin() as connection:
                self._sign(connection, self._recorded, stopped_us=time.time_ns() // 1000)
        except SQLAlchemyError as error:
            self._complain(_reason(error))

    def _flush(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, []
            self._taken = len(taken)
            refused, self._refused = self._refused, False
        for start in range(0, len(taken), BATCH):
            part = taken[start : start + BATCH]
            self._write([rows for record in part if (rows := self._rows(record))])
            with self._lock:
                self._characters -= sum(map(_characters, part))
        if refused:
            self._complain("records came faster than they could be written")

    def _rows(self, record: Record) -> list[Row]:
        try:
            return rows_of(record, self.instance_id, self.privacy)
        except Exception as error:
            self._drop(error)
            return []

    def _write(self, groups: Sequence[list[Row]]) -> None:
        """Commit the rows of some records, however long it takes; drop them when a closing recorder's time is over."""
        pause = SHORTEST_PAUSE_S
        while not self._commit(groups):
            if self._closing.wait(pause):
                pause = SHORTEST_PAUSE_S
                if time.monotonic() + pause > self._deadline:
                    self._settle(dropped=len(groups))
                    return
                time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _commit(self, groups: Sequence[list[Row]]) -> bool:
        """One transaction, or one per record if the database refuses one of them; False if it takes nothing now."""
        try:
            with self._engine.begin() as connection:
                self._sign(connection, self._recorded + len(groups))
                insert_rows(connection, [row for rows in groups for row in rows])
        except _OUTAGES as error:
            self._problem = _reason(error)
            self._complain(f"cannot be written: {self._problem}")
            return False
        except Exception as error:
            if len(groups) == 1:
                self._drop(error)
            for rows in groups if len(groups) > 1 else ():
                self._write([rows])
            return True
        if self._problem:
            logger.info("Request log %s can be written again", self._name)
        self._problem = None
        self._settle(recorded=len(groups))
        return True

    def _sign(self, connection: Connection, recorded: int, stopped_us: int | None = None) -> None:
        """Bring the instance's own row up to date, which all others refer to."""
        changing = {"recorded": recorded, "dropped": self._dropped, "stopped_us": stopped_us}
        upsert(connection, Instance, self._signature | changing, changing)

    def _settle(self, recorded: int = 0, dropped: int = 0) -> None:
        """Records that were taken and wait no longer."""
        with self._lock:
            self._recorded += recorded
            self._dropped += dropped
            self._taken -= recorded + dropped

    def _drop(self, error: Exception) -> None:
        self._settle(dropped=1)
        self._complain(f"a record cannot be stored: {type(error).__name__}: {_reason(error)}")

    def _complain(self, what: str) -> None:
        """A warning, at most once a minute."""
        if time.monotonic() - self._complained_at < COMPLAIN_S:
            return
        self._complained_at = time.monotonic()
        counts = self.counts()
        logger.warning(
            "Request log %s: %s; %d records wait, %d dropped since the start",
            self._name, what, counts.waiting, counts.dropped,
        )  # fmt: skip


def _instance_row(instance: InstanceRecord) -> dict[str, object]:
    return {
        "id": instance.id,
        "started_us": instance.started_us,
        "version": instance.version,
        "git_sha": instance.git_sha,
        "model_id": instance.model_id,
        "model_sha": instance.model_sha,
        "block_size": instance.block_size,
        "logit_shift": instance.logit_shift,
        "device": instance.device,
        "settings_json": json.dumps(dict(instance.settings)),
    }


def _characters(record: Record) -> int:
    if isinstance(record, RequestRecord):
        return len(record.prompt or "") + len(record.output or "")
    return 0


def _reason(error: Exception) -> str:
    """The database's own words, one line, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n")[0][:200]
