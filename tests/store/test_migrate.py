"""Every way from one revision to another, with data; who may open what."""

import multiprocessing
import random
import stat
import sys

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, func, insert, inspect, select, text

from optimus_server.errors import SettingsError
from optimus_server.store.migrate import config, head, migrate, revision
from optimus_server.store.session import log_url, writer
from optimus_server.store.tables import Base
from tests.store.samples import recording, request

REVISIONS = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]


class Bench:
    """One log on one engine, moved between revisions."""

    def __init__(self, place):
        self.engine = writer(log_url(place), foreign_keys=False)

    def move(self, how, to):
        with self.engine.connect() as connection:
            getattr(command, how)(config(connection), to)

    def tables(self):
        found = MetaData()
        found.reflect(self.engine)
        found.remove(found.tables["alembic_version"])
        return found

    def fill(self, rows=3):
        """Rows in every table, with a value in every column; children refer to the parent of the same number."""
        rng = random.Random(1)
        tables = self.tables().sorted_tables
        with self.engine.begin() as connection:
            for table in tables:
                for number in range(rows):
                    connection.execute(insert(table), {c.name: self._value(c, number, rng) for c in table.columns})

    def contents(self):
        tables = self.tables().tables
        with self.engine.begin() as connection:
            return {
                name: {frozenset(row.items()) for row in connection.execute(select(table)).mappings()}
                for name, table in tables.items()
            }

    @staticmethod
    def _value(column, number, rng):
        if column.primary_key or column.foreign_keys:
            return number if column.type.python_type is int else f"{number:022x}"
        kind = column.type.python_type
        return {
            bool: number % 2 == 0, int: rng.randrange(2**40), float: rng.random(), bytes: rng.randbytes(8),
            str: f"{column.name} {number}"[: getattr(column.type, "length", None)],
        }[kind]  # fmt: skip


@pytest.fixture
def bench(empty):
    found = Bench(empty)
    yield found
    found.engine.dispose()


def shared(contents, other):
    """What of some contents lies in columns that the same table has in the others."""
    columns = {name: {column for row in rows for column, _ in row} for name, rows in other.items()}
    return {
        name: {frozenset((column, value) for column, value in row if column in columns[name]) for row in rows}
        for name, rows in contents.items()
        if name in other
    }


@pytest.mark.parametrize("start", REVISIONS)
def test_data_of_every_revision_survives_upgrade_downgrade_and_upgrade(bench, start):
    bench.move("upgrade", start)
    bench.fill()
    written = bench.contents()
    assert all(len(rows) == 3 for rows in written.values())
    for how, to in (("upgrade", "head"), ("downgrade", start), ("upgrade", "head")):
        bench.move(how, to)
        found = bench.contents()
        assert set(found) >= set(written)
        assert shared(written, found) == shared(found, written)


def test_down_to_nothing_and_up_again(bench):
    bench.move("upgrade", "head")
    bench.fill()
    bench.move("downgrade", "base")
    assert inspect(bench.engine).get_table_names() == ["alembic_version"]
    bench.move("upgrade", "head")
    assert set(bench.contents()) == set(Base.metadata.tables)


def test_the_models_are_what_the_migrations_make(bench):
    bench.move("upgrade", "head")
    with bench.engine.connect() as connection:
        command.check(config(connection))


def test_a_migration_that_fails_leaves_nothing_behind(bench, monkeypatch):
    bench.move("upgrade", REVISIONS[0])
    bench.fill()
    before = bench.contents()
    with bench.engine.begin() as connection:
        # Of the next migration's last statements one will fail.
        connection.execute(text("CREATE TABLE load_samples (x INTEGER)"))
    with pytest.raises(Exception, match="load_samples"):
        bench.move("upgrade", "head")
    with bench.engine.begin() as connection:
        assert revision(connection) == REVISIONS[0]
        connection.execute(text("DROP TABLE load_samples"))
    assert bench.contents() == before
    bench.move("upgrade", "head")


def test_migrate_says_where_it_came_from(empty):
    assert migrate(log_url(empty)) is None
    assert migrate(log_url(empty)) == head() == REVISIONS[-1]


def at(place, to):
    """A log at some revision, with a request."""
    migrate(log_url(place))
    with recording(place) as recorder:
        recorder.submit(request())
    bench = Bench(place)
    bench.move("downgrade", to)
    bench.engine.dispose()


def test_a_file_with_data_is_copied_before_it_changes(tmp_path):
    file = tmp_path / "log.db"
    at(str(file), REVISIONS[0])
    file.chmod(0o640)
    migrate(log_url(str(file)))
    (copy,) = tmp_path.glob("log.db.*.bak")
    assert f".{REVISIONS[0]}." in copy.name
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    engine = create_engine(f"sqlite:///{copy}")
    with engine.connect() as connection:
        assert revision(connection) == REVISIONS[0]
        assert connection.scalar(text("SELECT count(*) FROM requests")) == 1
    engine.dispose()


def test_an_empty_file_and_a_current_one_are_not_copied(tmp_path):
    migrate(log_url(str(tmp_path / "log.db")))
    with recording(str(tmp_path / "log.db")) as recorder:
        recorder.submit(request())
    migrate(log_url(str(tmp_path / "log.db")))
    assert not list(tmp_path.glob("*.bak"))


def test_check_refuses_an_old_log_and_leaves_it_alone(empty):
    at(empty, REVISIONS[0])
    with pytest.raises(SettingsError, match=f"at revision {REVISIONS[0]}, this Optimus needs {head()}: run optimus"):
        migrate(log_url(empty), "check")
    engine = writer(log_url(empty))
    with engine.connect() as connection:
        assert revision(connection) == REVISIONS[0]
    engine.dispose()


def test_a_newer_log_is_refused_with_what_to_do(place):
    engine = writer(log_url(place))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(SettingsError, match=r"revision 9999, which this Optimus does not know .*a newer Optimus"):
        migrate(log_url(place))


def test_a_stranger_s_database_is_refused(empty):
    engine = writer(log_url(empty))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE requests (mine INTEGER)"))
    engine.dispose()
    with pytest.raises(SettingsError, match="no request log of Optimus, but has tables requests"):
        migrate(log_url(empty))


def test_what_is_no_database_is_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a database " * 100)
    with pytest.raises(SettingsError, match=r"notes\.txt: file is not a database"):
        migrate(log_url(str(file)))


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="File exists"):
        migrate(log_url(str(tmp_path / "file" / "log.db")))


def test_no_server_is_said_without_the_password():
    with pytest.raises(SettingsError) as refused:
        migrate(log_url("postgresql://someone:hidden@127.0.0.1:9/log"))
    assert "127.0.0.1" in refused.value.message
    assert "hidden" not in refused.value.message


def _start(place, barrier, results):
    barrier.wait()
    try:
        migrate(log_url(place))
        with recording(place, name=f"process {multiprocessing.current_process().name}") as recorder:
            recorder.submit(request(request_id=multiprocessing.current_process().name))
        results.put("")
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.parametrize("trial", range(2))
def test_four_processes_start_at_once_on_a_new_log(empty, trial):
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_start, args=(empty, barrier, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [""] * 4
    for process in processes:
        process.join()
    engine = writer(log_url(empty))
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Base.metadata.tables["requests"])) == 4
    engine.dispose()
