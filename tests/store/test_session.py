"""Places and connections."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from optimus_server.errors import SettingsError
from optimus_server.store.session import file_of, log_url, reader, shown, writer


def test_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert file_of(log_url("log.db")) == tmp_path / "log.db"
    assert file_of(log_url("~/log.db")).name == "log.db"
    assert file_of(log_url("sqlite:////data/log.db")).as_posix() == "/data/log.db"
    for url in ("postgres://me:pw@host/log", "postgresql://me:pw@host/log", "postgresql+psycopg2://me:pw@host/log"):
        assert log_url(url).drivername == "postgresql+psycopg"
        assert file_of(log_url(url)) is None
        assert shown(log_url(url)) == "postgresql://me:***@host/log"


@pytest.mark.parametrize("place", ["mysql://host/log", "://", "postgresql://host:port/log"])
def test_other_places_are_refused(place):
    with pytest.raises(SettingsError, match="--log-db must be"):
        log_url(place)


def test_a_reader_cannot_write(place):
    engine = reader(log_url(place))
    with engine.connect() as connection, pytest.raises(DBAPIError, match=r"read-?only"):
        connection.execute(text("DELETE FROM requests"))
    engine.dispose()


def test_a_reader_makes_no_file(tmp_path):
    with pytest.raises(SettingsError, match="there is no request log"):
        reader(log_url(str(tmp_path / "log.db")))
    assert not list(tmp_path.iterdir())


def test_what_sqlite_is_set_to(file):
    engine = writer(log_url(str(file)))
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "auto_vacuum", "busy_timeout", "page_size")
        }
    assert found == {
        "journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "auto_vacuum": 2, "busy_timeout": 5000,
        "page_size": 8192,
    }  # fmt: skip
    engine.dispose()
