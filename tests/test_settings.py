"""The settings' values: what follows from them, and what they share with the engine."""

import re
import subprocess
import sys
from typing import get_args

from optimus_server import settings
from optimus_server.engine.request import POLICIES
from optimus_server.settings import SECRETS, Settings


def test_one_core_is_left_to_the_event_loop(monkeypatch):
    for cores, threads in ((1, 1), (2, 1), (16, 15)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=cores: range(n))
        assert settings.default_threads() == threads


def test_policies_are_those_of_the_engine():
    assert get_args(Settings.model_fields["policy"].annotation) == POLICIES


def test_origins():
    assert Settings().origins == ["*"]
    assert Settings(cors_allow_origin="https://a, https://b").origins == ["https://a", "https://b"]


def test_settings_need_no_heavy_import():
    code = (
        "import sys, optimus_server.settings as s; assert not {'torch', 'transformers', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_log_s_place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert Settings().log_place == str(tmp_path / "optimus" / "log.db")
    assert Settings(log_db="x.db").log_place == "x.db"
    assert Settings(log_db="off").log_place is None


def test_secrets_are_not_shown():
    """Whatever is declared as a secret, and whatever sounds like one must be declared so."""
    hidden = dict.fromkeys(SECRETS, "do-not-show-me")
    told = Settings(**hidden, port=1)
    assert {name: told.shown(exclude_defaults=True)[name] for name in hidden} == dict.fromkeys(SECRETS, "set")
    assert told.shown()["port"] == 1
    assert "do-not-show-me" not in f"{told} {told!r} {told.shown()}"
    assert Settings().shown() == Settings().model_dump()
    assert {"api_key", "admin_token", "log_db"} <= SECRETS
    for name, field in Settings.model_fields.items():
        if str in (field.annotation, *get_args(field.annotation)):
            sounds = re.search(r"key|_token|secret|password|://", f"{name}: {field.description}", re.IGNORECASE)
            assert (name in SECRETS) == bool(sounds), name
