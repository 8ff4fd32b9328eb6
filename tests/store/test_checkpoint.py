"""The write-ahead log is brought into the file beside the writer, not by its commits."""

import time

from optimus_server.store import checkpoint
from optimus_server.store.session import log_url, writer
from tests.store.samples import recording, request, settled


def test_commits_do_not_wait_for_the_file(file):
    """SQLite would bring the log over after 1,000 pages; here it only grows, until somebody else does."""
    with recording(str(file), log_text="full") as recorder:
        settled(recorder)
        before = file.stat().st_size
        for number in range(1500):
            recorder.submit(request(number, prompt=f"{number}" * 1000, output="y" * 5000))
        settled(recorder)
        assert file.with_name(file.name + "-wal").stat().st_size > 1200 * 8192
        assert file.stat().st_size == before
        assert checkpoint.checkpoint(recorder._engine)
        assert file.stat().st_size > 1200 * 8192
        assert recorder.counts().dropped == 0


def test_it_is_done_now_and_then(file, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.05)
    before = file.stat().st_size
    with recording(str(file), log_text="full") as recorder:
        for number in range(100):
            recorder.submit(request(number, prompt=f"{number}" * 1000, output="y" * 5000))
        settled(recorder)
        deadline = time.monotonic() + 5
        while file.stat().st_size == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not recorder._checkpoints.is_alive()


def test_what_is_no_database_is_no_error(tmp_path):
    place = tmp_path / "log.db"
    place.write_bytes(b"no database" * 1000)
    engine = writer(log_url(str(place)), checkpoints=False)
    assert not checkpoint.checkpoint(engine)
    engine.dispose()
