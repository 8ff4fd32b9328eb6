"""From settings to a recorder."""

import subprocess
import sys

import pytest

from optimus_server import cli
from optimus_server.errors import SettingsError
from optimus_server.settings import Settings
from optimus_server.store import start
from optimus_server.store.migrate import migrate
from optimus_server.store.queries import Log
from optimus_server.store.session import log_url
from tests.store.samples import instance, request


def test_a_log_from_nothing(empty):
    open_log = start.prepare(Settings(log_db=empty, log_text="truncate:3"))
    recorder = open_log(instance())
    recorder.submit(request(prompt="abcdef"))
    recorder.close()
    with Log(empty) as log:
        assert log.request("request-0").prompt == "abc"


def test_off_is_no_log(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert start.prepare(Settings(log_db="off")) is None
    assert not list(tmp_path.iterdir())


def test_the_default_place_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new"))
    start.prepare(Settings())
    assert {path.name for path in (tmp_path / "new" / "optimus").iterdir()} >= {"log.db", "log.db.key"}


def test_check_refuses_what_is_not_up_to_date(empty):
    with pytest.raises(SettingsError, match="run optimus migrate"):
        start.prepare(Settings(log_db=empty, db_migrate="check"))
    migrate(log_url(empty))
    assert start.prepare(Settings(log_db=empty, db_migrate="check"))


def test_a_bad_log_is_refused_before_the_model_is_loaded(tmp_path, capsys):
    (tmp_path / "x").write_text("no database " * 99)
    assert cli.main(["serve", "no-such-model", "-p", "0", "--log-db", str(tmp_path / "x")]) == 2
    assert "file is not a database" in capsys.readouterr().err


def test_asking_a_log_needs_no_torch(file):
    code = (
        "import sys; from optimus_server import cli; "
        f"cli.main(['log', 'list', '--log-db', {str(file)!r}]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_commit_is_the_checkout_s():
    found = start.checkout()
    assert found is None or len(found) == 40
