"""What is kept of text, and the key."""

import hashlib
import hmac
import stat

import pytest
from sqlalchemy import select

from optimus_server.errors import SettingsError
from optimus_server.settings import LOG_TEXT
from optimus_server.store.privacy import Privacy, load_key, storable
from optimus_server.store.session import log_url, writer
from optimus_server.store.tables import Base, Request, RequestText
from tests.store.samples import KEY, recording, request

SECRET = "a secret nobody may read"


def rows(place, table):
    engine = writer(log_url(place))
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(select(table.__table__)).mappings()]
    engine.dispose()
    return found


def test_the_hash_is_hmac_sha256_of_the_prompt():
    expected = hmac.new(KEY, b"prompt\0" + SECRET.encode(), hashlib.sha256).digest()
    assert Privacy.of("hash", KEY).keep(SECRET, "x").hmac == expected


@pytest.mark.parametrize(("log_text", "hashed"), [("none", False), ("hash", True)])
def test_none_and_hash_store_no_text_anywhere(place, log_text, hashed):
    with recording(place, log_text=log_text) as recorder:
        recorder.submit(request(prompt=SECRET, output=SECRET))
    (row,) = rows(place, Request)
    assert (row["prompt_hmac"] is not None) == hashed
    for mapper in Base.registry.mappers:
        assert not any(SECRET in str(value) for row in rows(place, mapper.class_) for value in row.values())


def test_hash_leaves_no_text_in_the_file(tmp_path, file):
    with recording(str(file)) as recorder:
        recorder.submit(request(prompt=SECRET, output=SECRET))
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("log_text", "prompt", "output", "truncated"),
    [
        ("truncate:5", "a sec", "short", True),
        ("truncate:99", SECRET, "short ", False),
        ("full", SECRET, "short ", False),
    ],
)
def test_truncate_and_full_store_what_they_say(place, log_text, prompt, output, truncated):
    with recording(place, log_text=log_text) as recorder:
        recorder.submit(request(prompt=SECRET, output="short "))
    (row,) = rows(place, RequestText)
    assert (row["prompt"], row["output"], row["truncated"]) == (prompt, output, truncated)


def test_text_that_no_database_takes_is_stored_all_the_same(place):
    with recording(place, log_text="full") as recorder:
        recorder.submit(request(prompt="a\0b\ud800c", output="\0"))
    (row,) = rows(place, RequestText)
    assert (row["prompt"], row["output"]) == ("a\ufffdb?c", "\ufffd")
    assert storable("plain") == "plain"


def test_a_client_has_one_name_per_key_and_it_is_not_the_key():
    one, other = Privacy.of("hash", KEY), Privacy.of("hash", bytes(32))
    assert one.client("sk-1") == one.client("sk-1") != one.client("sk-2")
    assert one.client("sk-1") != other.client("sk-1")
    assert len(one.client("sk-1")) == 16
    # A prompt that is somebody's key must not lead to their requests.
    assert one.keep("sk-1", "").hmac[:8].hex() != one.client("sk-1")


@pytest.mark.parametrize("value", ["none", "hash", "full", "truncate:1", "truncate:2000"])
def test_values_of_log_text(value):
    assert LOG_TEXT.fullmatch(value)


@pytest.mark.parametrize("value", ["", "all", "truncate", "truncate:", "truncate:0", "truncate:-1", "full "])
def test_other_values_are_none(value):
    assert not LOG_TEXT.fullmatch(value)


def test_the_key_lies_beside_the_log_and_is_nobody_else_s(tmp_path):
    url = log_url(str(tmp_path / "log.db"))
    key = load_key(url, tmp_path / "state")
    assert len(key) == 32
    assert load_key(url, tmp_path / "state") == key
    assert stat.S_IMODE((tmp_path / "log.db.key").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"log.db.key"}


def test_the_key_of_postgresql_logs_lies_in_the_state_directory(tmp_path):
    key = load_key(log_url("postgresql://host/log"), tmp_path / "state")
    assert bytes.fromhex((tmp_path / "state" / "postgresql.key").read_text()) == key


def test_a_key_that_is_none_is_said(tmp_path):
    (tmp_path / "log.db.key").write_text("zz")
    with pytest.raises(SettingsError, match=r"log\.db\.key"):
        load_key(log_url(str(tmp_path / "log.db")), tmp_path)
