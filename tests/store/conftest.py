"""Every test of a log runs on SQLite and, where OPTIMUS_TEST_POSTGRES names a server, on PostgreSQL. CI sets it."""

import os

import pytest
from sqlalchemy import create_engine, text

from optimus_server.store.migrate import migrate
from optimus_server.store.session import log_url

POSTGRES = os.environ.get("OPTIMUS_TEST_POSTGRES")
"""URL of a database whose schema ``public`` may be thrown away."""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """The place of a log that does not exist yet, as one gives it to ``--log-db``."""
    if request.param == "sqlite":
        return str(tmp_path / "log.db")
    if not POSTGRES:
        pytest.skip("OPTIMUS_TEST_POSTGRES names no server")
    engine = create_engine(log_url(POSTGRES))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return POSTGRES


@pytest.fixture
def place(empty):
    """An empty log at the newest revision."""
    migrate(log_url(empty))
    return empty
