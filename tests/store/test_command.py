"""``optimus log`` as a person uses it."""

import csv
import json
import re

import pyarrow.parquet as pq
import pytest

from optimus_server import cli
from optimus_server.store import command
from tests.store.samples import HOUR_US, NOW_US, decision, recording, request


@pytest.fixture
def log(place, capsys):
    """A log of three requests, and a function that runs a command on it and returns what it printed."""
    with recording(place, log_text="full") as recorder:
        recorder.submit(request(0, client="alice"))
        recorder.submit(request(1, client="bob", created_us=NOW_US + HOUR_US, total_ms=2000.0))
        recorder.submit(request(2, status=422, error_type="validation", error="too long", finish_reason=None, trace=()))
        recorder.submit(decision())

    def run(name, *arguments):
        code = cli.main(["log", name, "--log-db", place, *arguments])
        assert code == 0
        return capsys.readouterr().out

    return run


def test_list(log):
    lines = log("list").splitlines()
    assert lines[0].split()[:4] == ["time", "request", "status", "client"]
    assert [re.search(r"request-\d", line)[0] for line in lines[1:]] == ["request-1", "request-2", "request-0"]
    assert "validation" in lines[2]
    assert "request-2" in log("list", "--failed")
    assert "request-0" not in log("list", "--failed")
    assert "request-0" not in log("list", "--limit", "1")
    assert "request-1" in log("list", "--min-ms", "1000", "--client", "bob", "--endpoint", "/generate")


def test_show(log):
    shown = log("show", "request-0")
    assert re.search(r"finish_reason +length", shown)
    assert "prompt 0" in shown
    assert "an answer" in shown
    assert re.search(r"committed +▄▄▄ +of 4", shown)
    found = json.loads(log("show", "request-0", "--json"))
    assert found["request"]["request_id"] == "request-0"
    assert len(found["steps"]) == 4
    assert found["output"] == "an answer"


def test_stats(log):
    assert len(log("stats").splitlines()) == 3
    by_client = log("stats", "--by", "client").splitlines()
    assert [line.split()[0] for line in by_client[1:3]] == ["alice", "bob"]
    assert re.search(r"^ +4 +6 ", log("stats", "--by", "chunk").splitlines()[1])
    assert re.search(r"^load_down +1 ", log("stats", "--by", "reason").splitlines()[1])


def test_export_to_csv(log, tmp_path):
    assert "3 rows of requests" in log("export", str(tmp_path / "log.csv"))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["request_id"] for row in rows] == ["request-0", "request-2", "request-1"]
    assert len(bytes.fromhex(rows[0]["prompt_hmac"])) == 32
    assert rows[1]["error"] == "too long"


def test_export_to_parquet(log, tmp_path):
    log("export", str(tmp_path / "log.parquet"), "--failed")
    table = pq.read_table(tmp_path / "log.parquet")
    assert table.num_rows == 1
    (row,) = table.to_pylist()
    assert (row["request_id"], row["status"], row["generated_tokens"], row["cancelled"]) == ("request-2", 422, 6, False)
    for name in ("chunk_decisions", "request_text", "instances", "load_samples"):
        log("export", str(tmp_path / "other.parquet"), "--table", name)


def test_replay(log):
    shown = log("replay", "request-0", "--speed", "0")
    assert "an answer" in shown
    assert "step 4/4" in shown


def test_prune(log, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: (NOW_US + 48 * HOUR_US) * 1000)
    assert "0 requests forgotten" in log("prune", "--days", "3")
    assert "request-0" in log("list")
    assert "3 requests forgotten" in log("prune", "--days", "1")
    assert "request-0" not in log("list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nobody"), "no request nobody"),
        (("replay", "request-2"), "no steps of request-2"),
        (("export", "log.txt"), "must end in .csv or .parquet"),
        (("prune",), "give --days or --max-mb"),
    ],
)
def test_what_cannot_be_done_is_said(log, place, capsys, arguments, message):
    assert cli.main(["log", arguments[0], "--log-db", place, *arguments[1:]]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["list", "stats", "prune"])
def test_a_log_that_is_not_there_is_not_made(tmp_path, capsys, name):
    more = ["--days", "1"] if name == "prune" else []
    assert cli.main(["log", name, "--log-db", str(tmp_path / "log.db"), *more]) == 2
    assert "there is no request log" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_migrate(empty, capsys):
    assert cli.main(["migrate", "--log-db", empty]) == 0
    assert re.search(r"revision \d+, was new", capsys.readouterr().out)
    assert cli.main(["migrate", "--log-db", empty]) == 0
    assert re.search(r"revision \d+\n", capsys.readouterr().out)


def test_a_log_that_is_off_cannot_be_asked(monkeypatch, capsys):
    monkeypatch.setenv("OPTIMUS_LOG_DB", "off")
    assert cli.main(["log", "list"]) == 2
    assert "switched off" in capsys.readouterr().err


def test_times(monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: NOW_US * 1000)
    assert command._time("90m") == NOW_US - 90 * 60 * 10**6
    assert command._time("2d") == NOW_US - 48 * HOUR_US
    assert command._time("2026-01-31T12:00+00:00") == 1769860800 * 10**6


def test_other_times_are_refused(capsys):
    with pytest.raises(SystemExit):
        cli.main(["log", "list", "--since", "yesterday"])
    assert "must be like 30m, 24h, 7d" in capsys.readouterr().err
