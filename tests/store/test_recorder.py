"""Nothing is lost that can be written; what cannot be is counted and said; nobody waits."""

import contextlib
import logging
import time

import pytest
from sqlalchemy import event, select, text

from optimus_server.store import recorder as recorder_module
from optimus_server.store.migrate import migrate
from optimus_server.store.queries import Log
from optimus_server.store.recorder import MAX_CHARACTERS, Counts
from optimus_server.store.records import RequestRecord
from optimus_server.store.rows import rows_of
from optimus_server.store.session import log_url, writer
from optimus_server.store.tables import ChunkDecision, Instance, LoadSample, Request, RequestSteps, RequestText
from tests.store.samples import NOW_US, decision, load, recording, request, settled
from tests.web import wait_for


def rows(place, table):
    engine = writer(log_url(place))
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(select(table.__table__)).mappings()]
    engine.dispose()
    return found


def test_a_request_s_row(place):
    with recording(place) as recorder:
        recorder.submit(request(seed=2**64 - 1, client="c", user_agent="me", params={"top_k": 5}))
    (row,) = rows(place, Request)
    assert row["id"].startswith(f"{row['created_us']:014x}")
    assert row["instance_id"] == "one"
    assert (row["request_id"], row["endpoint"], row["status"]) == ("request-0", "/generate", 200)
    assert (row["seed"], row["params_json"], row["client"]) == (str(2**64 - 1), '{"top_k": 5}', "c")
    assert (row["chunk_min"], row["chunk_max"], row["chunk_mean"]) == (4, 4, 4.0)
    assert (row["batch_max"], row["batch_mean"], row["ttfc_ms"]) == (2, 2.0, 10.0)
    assert row["prefill_ms"] == 4.5
    assert (row["steps"], row["tokens_per_step"]) == (3, 2.0)
    assert (row["error"], row["cancelled"]) == (None, False)
    (steps,) = rows(place, RequestSteps)
    assert (steps["request_id"], steps["n"]) == (row["id"], 4)


def test_a_refused_request_has_a_row_and_nothing_else(place):
    refused = RequestRecord(
        request_id="x", created_us=NOW_US, endpoint="/generate", status=422, total_ms=1.0, error_type="validation",
        error="`top_p` must be > 0.0 and < 1.0",
    )  # fmt: skip
    with recording(place, log_text="full") as recorder:
        recorder.submit(refused)
    (row,) = rows(place, Request)
    assert (row["status"], row["error_type"]) == (422, "validation")
    assert row["prompt_hmac"] is row["chunk_min"] is row["generated_tokens"] is None
    assert rows(place, RequestSteps) == rows(place, RequestText) == []


def test_decisions_and_load(place):
    with recording(place) as recorder:
        recorder.submit(decision())
        recorder.submit(load())
    (decided,) = rows(place, ChunkDecision)
    assert (decided["chunk_old"], decided["chunk_new"], decided["reason"]) == (8, 16, "load_down")
    (sample,) = rows(place, LoadSample)
    assert (sample["running"], sample["tok_s"]) == (3, 100.0)


def test_the_instance_says_how_it_went(place):
    with recording(place) as recorder:
        recorder.submit(request())
        settled(recorder)
        (row,) = rows(place, Instance)
        assert (row["recorded"], row["dropped"], row["stopped_us"]) == (1, 0, None)
    (row,) = rows(place, Instance)
    assert row["stopped_us"] > 0
    assert row["model_id"] == "org/model"


def test_a_client_may_repeat_its_id(place):
    with recording(place) as recorder:
        recorder.submit(request())
        recorder.submit(request())
    assert [row["request_id"] for row in rows(place, Request)] == ["request-0"] * 2


def test_rows_that_are_there_already_are_no_error(place):
    with recording(place) as recorder:
        group = rows_of(request(), "one", recorder.privacy)
        recorder._write([group])
        recorder._write([group])
        assert recorder.counts().dropped == 0
    assert len(rows(place, Request)) == 1


def test_close_writes_what_waits(place):
    with recording(place) as recorder:
        for number in range(1200):
            assert recorder.submit(request(number))
    assert len(rows(place, Request)) == 1200
    assert recorder.counts() == Counts(1200, 0, 0, None)


def test_one_record_that_cannot_be_stored_takes_no_other_with_it(place, caplog):
    with recording(place) as recorder:
        for bad in (request(2, status=2**70), request(3, user_agent=object()), request(4, created_us=None)):
            recorder.submit(request(1))
            recorder.submit(bad)
        settled(recorder)
        assert recorder.counts() == Counts(3, 3, 0, None)
    assert [row["request_id"] for row in rows(place, Request)] == ["request-1"] * 3
    assert rows(place, Instance)[0]["dropped"] == 3
    (said,) = [record.getMessage() for record in caplog.records if record.name == "optimus_server.store.recorder"]
    assert "cannot be stored" in said


def test_too_many_at_once_are_dropped_and_counted(place, caplog, monkeypatch):
    monkeypatch.setattr(recorder_module, "MAX_RECORDS", 100)
    with recording(place) as recorder:
        taken = [recorder.submit(request()) for _ in range(1000)]
        dropped = taken.count(False)
        assert 0 < dropped <= 900
        settled(recorder)
        assert recorder.counts() == Counts(1000 - dropped, dropped, 0, None)
    assert len(rows(place, Request)) == 1000 - dropped
    assert rows(place, Instance)[0]["dropped"] == dropped
    assert sum("faster than they could be written" in line for line in caplog.messages) == 1


def test_text_that_waits_is_limited_too(place):
    with recording(place) as recorder:
        half = "x" * (MAX_CHARACTERS // 2)
        taken = [recorder.submit(request(prompt=half, output="")) for _ in range(3)]
        assert taken[0]
        assert not taken[2]
        settled(recorder)
        assert recorder.submit(request(prompt=half, output=""))


@contextlib.contextmanager
def locked(place):
    """Another process that holds the log: SQLite's write lock, or PostgreSQL's on all of a table."""
    engine = writer(log_url(place))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE instances IN ACCESS EXCLUSIVE MODE"))
        yield
    engine.dispose()


def test_a_locked_log_is_waited_for(place, caplog):
    caplog.set_level(logging.INFO, "optimus_server")
    problem = "canceling statement due to lock timeout" if "://" in place else "database is locked"
    with recording(place) as recorder:
        settled(recorder)
        with locked(place):
            for number in range(5):
                assert recorder.submit(request(number))
            wait_for(lambda: recorder.counts().problem, 10)
            assert recorder.counts().problem == problem
            assert recorder.counts().waiting == 5
        settled(recorder)
        assert recorder.counts() == Counts(5, 0, 0, None)
    assert len(rows(place, Request)) == 5
    assert sum(f"cannot be written: {problem}" in line for line in caplog.messages) == 1
    assert sum("can be written again" in line for line in caplog.messages) == 1


def test_a_full_disk_is_survived_and_said_once_a_minute(file, caplog):
    with recording(str(file)) as recorder:
        settled(recorder)
        # SQLite's own limit gives the error that a full disk gives.
        event.listen(recorder._engine, "begin", lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1"))
        for number in range(300):
            recorder.submit(request(number))
        time.sleep(1.0)
        assert recorder.counts().waiting == 300
        assert "full" in recorder.counts().problem
        event.listen(recorder._engine, "begin", lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000"))
        settled(recorder)
    assert len(rows(str(file), Request)) == 300
    assert sum("full" in line for line in caplog.messages) == 1


def test_what_cannot_be_written_at_the_end_is_counted_and_said(file, caplog):
    with recording(str(file)) as recorder:
        settled(recorder)
        with locked(str(file)):
            recorder.submit(request())
            began = time.monotonic()
            recorder.close(timeout_s=0.5)
            assert time.monotonic() - began < 3
    assert recorder.counts().dropped == 1
    assert any("1 records are lost" in line for line in caplog.messages)


def test_a_server_that_comes_back_is_written_to_again(empty):
    if "://" not in empty:
        pytest.skip("files do not go away")
    migrate(log_url(empty))
    with recording(empty) as recorder:
        settled(recorder)
        engine = writer(log_url(empty))
        with engine.begin() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()")
            )
        engine.dispose()
        recorder.submit(request())
        settled(recorder)
    assert len(rows(empty, Request)) == 1


def test_readers_do_not_stop_the_writer(file):
    log = Log(str(file))
    with recording(str(file)) as recorder, log._engine.connect() as connection:
        connection.execute(select(Request.id)).all()
        recorder.submit(request())
        settled(recorder)
        assert recorder.counts().recorded == 1
    log.close()


def test_two_servers_share_a_log(place):
    with recording(place, name="one") as one, recording(place, name="two") as two:
        for number in range(50):
            one.submit(request(number))
            two.submit(request(number))
    assert sorted(row["instance_id"] for row in rows(place, Request)) == ["one"] * 50 + ["two"] * 50
