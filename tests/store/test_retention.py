"""What is forgotten and what stays."""

import pytest
from sqlalchemy import func, select

from optimus_server.store.retention import DAY_US, MINUTE_US, Retention, sweep
from optimus_server.store.session import log_url, writer
from optimus_server.store.tables import (
    ChunkDecision,
    Instance,
    LoadSample,
    OperatorAction,
    Request,
    RequestSteps,
    RequestText,
)
from tests.store.samples import NOW_US, action, decision, load, recording, request, settled
from tests.web import wait_for


@pytest.fixture
def engine(place):
    found = writer(log_url(place))
    yield found
    found.dispose()


def count(engine, table):
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table))


def test_old_requests_go_with_all_that_hangs_on_them(place, engine):
    ages = [0, 29, 31, 400]
    with recording(place, log_text="full") as recorder:
        for age in ages:
            recorder.submit(request(age, created_us=NOW_US - age * DAY_US))
            recorder.submit(decision(t_us=NOW_US - age * DAY_US))
            recorder.submit(load(t_us=NOW_US - age * DAY_US))
            recorder.submit(action(t_us=NOW_US - age * DAY_US))
    assert sum(sweep(engine, Retention(days=30), NOW_US)) == 2
    for table in (Request, RequestSteps, RequestText, ChunkDecision, LoadSample, OperatorAction):
        assert count(engine, table) == 2, table


def test_each_step_deletes_a_thousand_at_most(place, engine):
    with recording(place) as recorder:
        for number in range(2500):
            recorder.submit(request(number, trace=()))
    steps = list(sweep(engine, Retention(days=1), NOW_US + 2 * DAY_US))
    assert [step for step in steps if step] == [1000, 1000, 500]


def test_no_limits_forget_nothing(place, engine):
    with recording(place) as recorder:
        recorder.submit(request(created_us=1))
    assert sum(sweep(engine, Retention(), NOW_US)) == 0
    assert count(engine, Request) == 1


def test_load_samples_are_thinned_after_a_day(place, engine):
    start = NOW_US - NOW_US % MINUTE_US
    with recording(place) as recorder:
        for second in range(20, 140):
            recorder.submit(load(t_us=start + second * 10**6))
    list(sweep(engine, Retention(), start + DAY_US))
    assert count(engine, LoadSample) == 120
    list(sweep(engine, Retention(), start + DAY_US + 3 * MINUTE_US))
    with engine.connect() as connection:
        kept = connection.scalars(select(LoadSample.t_us).order_by(LoadSample.t_us)).all()
    assert kept == [start + second * 10**6 for second in (20, 60, 120)]


def test_an_instance_goes_when_nothing_refers_to_it(place, engine):
    with recording(place, name="used") as recorder:
        recorder.submit(request(created_us=NOW_US))
    with recording(place, name="unused"):
        pass
    with engine.connect() as connection:
        stopped = connection.scalar(select(func.max(Instance.stopped_us)))
    list(sweep(engine, Retention(days=1), stopped + 1))
    assert count(engine, Instance) == 2
    with engine.begin() as connection:
        connection.execute(Request.__table__.update().values(created_us=stopped + 2 * DAY_US))
    list(sweep(engine, Retention(days=1), stopped + 2 * DAY_US))
    with engine.connect() as connection:
        assert connection.scalars(select(Instance.id)).all() == ["used"]


def test_a_file_that_is_too_large_shrinks_from_its_oldest_end(file):
    engine = writer(log_url(str(file)))
    with recording(str(file), log_text="full") as recorder:
        for number in range(3000):
            recorder.submit(request(number, prompt="x" * 1000))
        recorder.submit(action())
    large = file.stat().st_size
    assert large > 3 * 2**20
    list(sweep(engine, Retention(mebibytes=3), NOW_US + DAY_US))
    assert file.stat().st_size <= 3 * 2**20
    with engine.connect() as connection:
        oldest, newest, left = connection.execute(
            select(func.min(Request.created_us), func.max(Request.created_us), func.count())
        ).one()
    assert newest == NOW_US + 2999 * 10**6
    assert left == (newest - oldest) // 10**6 + 1 < 3000
    assert count(engine, OperatorAction) == 1
    engine.dispose()


def test_a_recorder_forgets_by_itself(place, engine):
    with recording(place) as recorder:
        recorder.submit(request(created_us=1))
        settled(recorder)
    with recording(place, name="two", limits=Retention(days=1)):
        wait_for(lambda: count(engine, Request) == 0)
