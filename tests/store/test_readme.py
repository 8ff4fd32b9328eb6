"""What the README of the log says runs, and its tables are the tables."""

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from optimus_server import store
from optimus_server.store.queries import Filter, Log
from optimus_server.store.session import log_url, reader
from optimus_server.store.tables import Base
from tests.store.samples import action, decision, load, recording, request

README = Path(store.__file__).with_name("README.md").read_text()
QUERIES = re.findall(r"(\w[^\n]*)\n\n```sql\n(.*?)```", README, re.DOTALL)


def tables() -> str:
    parts = []
    for name, table in Base.metadata.tables.items():
        rows = "\n".join(f"| `{column.name}` | {column.comment} |" for column in table.columns)
        parts.append(f"**{name}**\n\n| column | meaning |\n| --- | --- |\n{rows}\n")
    return "\n".join(parts)


@pytest.fixture
def full(place):
    with recording(place, log_text="full") as recorder:
        for number in range(20):
            recorder.submit(request(number, client="ab"[number % 2]))
            recorder.submit(decision(number))
            recorder.submit(load(number))
            recorder.submit(action(number))
    return place


@pytest.mark.parametrize(("question", "query"), QUERIES, ids=[question for question, _ in QUERIES])
def test_the_queries_run_and_find_something(full, question, query):
    engine = reader(log_url(full))
    with engine.connect() as connection:
        rows = connection.execute(text(query)).mappings().all()
    engine.dispose()
    assert rows
    assert all(value is not None for value in rows[0].values() if value != rows[0].get("stopped_us", 0))


def test_there_are_queries():
    assert len(QUERIES) == 9


def test_the_notebook_runs(full, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = code.replace('"log.db"', repr(full)).replace("some x-request-id", "request-3")
    found: dict[str, object] = {}
    exec(code, found)
    assert isinstance(found["log"], Log)
    assert found["Filter"] is Filter
    found["log"].close()


def test_the_tables_are_the_tables():
    block = re.search(r"<!-- tables -->\n(.*?)<!-- /tables -->", README, re.DOTALL)
    assert block
    assert block[1] == tables()
