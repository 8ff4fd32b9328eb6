"""Whatever the database does, every record is written, waits, or is counted as dropped."""

import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from optimus_server.store import recorder as recorder_module
from optimus_server.store.migrate import migrate
from optimus_server.store.session import log_url
from tests.store.samples import recording, request


class Outages(RuleBasedStateMachine):
    """Submits, locks and unlocks, with room for thirty records."""

    @initialize()
    def open(self):
        self.directory = tempfile.TemporaryDirectory()
        self.file = Path(self.directory.name) / "log.db"
        migrate(log_url(str(self.file)))
        self.open_recorder = recording(str(self.file), busy_s=0.01)
        self.recorder = self.open_recorder.__enter__()
        self.other = sqlite3.connect(self.file, isolation_level=None, check_same_thread=False, timeout=10)
        self.locked = False
        self.accepted = self.refused = 0

    @rule()
    def submit(self):
        if self.recorder.submit(request(trace=())):
            self.accepted += 1
        else:
            self.refused += 1

    @rule()
    def submit_many(self):
        for _ in range(20):
            self.submit()

    @rule()
    def submit_what_no_database_takes(self):
        self.recorder.submit(request(status=2**70, trace=()))
        self.refused += 1

    @precondition(lambda self: not self.locked)
    @rule()
    def lock(self):
        self.other.execute("BEGIN IMMEDIATE")
        self.locked = True

    @precondition(lambda self: self.locked)
    @rule()
    def unlock(self):
        self.other.execute("ROLLBACK")
        self.locked = False

    @rule()
    def wait(self):
        time.sleep(0.03)

    @invariant()
    def nothing_is_unaccounted_for(self):
        counts = self.recorder.counts()
        assert counts.recorded + counts.dropped + counts.waiting <= self.accepted + self.refused
        assert counts.dropped <= self.refused

    def teardown(self):
        if self.locked:
            self.unlock()
        self.open_recorder.__exit__(None, None, None)
        counts = self.recorder.counts()
        assert (counts.recorded, counts.dropped, counts.waiting) == (self.accepted, self.refused, 0)
        (rows,) = self.other.execute("SELECT count(*) FROM requests").fetchone()
        (said,) = self.other.execute("SELECT dropped FROM instances").fetchone()
        self.other.close()
        self.directory.cleanup()
        assert (rows, said) == (self.accepted, self.refused)


@pytest.fixture
def small(monkeypatch):
    """A recorder that fills up soon and tries again soon."""
    monkeypatch.setattr(recorder_module, "MAX_RECORDS", 30)
    monkeypatch.setattr(recorder_module, "FLUSH_S", 0.01)
    monkeypatch.setattr(recorder_module, "SHORTEST_PAUSE_S", 0.01)
    monkeypatch.setattr(recorder_module, "LONGEST_PAUSE_S", 0.02)


def test_every_record_is_accounted_for(small):
    run_state_machine_as_test(
        Outages, settings=settings(max_examples=12, stateful_step_count=15, deadline=None, derandomize=True)
    )
