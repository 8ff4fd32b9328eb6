"""Steps in the larger buffers of recorded forwards; the golden test shows that answers stay the same."""

import pytest

from optimus_kernels.paged_attention import Room
from tests.engine.conftest import finish


def recorded(tiny, **options):
    engine = tiny().engine(pages=300, max_rows=6, recorded=True, **options)
    return engine, engine.runner.graphs


def test_a_step_takes_the_smallest_room_it_fits(tiny):
    _, graphs = recorded(tiny)
    assert graphs.fit(Room(1, 1, 1)) == Room(1, 1, 64)
    assert graphs.fit(Room(2, 3, 1)) == Room(4, 4, 64)
    assert graphs.fit(Room(3, 17, 64)) == Room(4, 32, 64)
    assert graphs.fit(Room(5, 130, 1)) == Room(6, 160, 64)


def test_what_is_too_large_has_no_room(tiny):
    _, graphs = recorded(tiny)
    assert graphs.fit(Room(6, 200, 64)) == Room(6, 200, 64)
    assert graphs.fit(Room(7, 8, 1)) is None
    assert graphs.fit(Room(1, 201, 1)) is None
    assert graphs.fit(Room(1, 1, 65)) is None


def test_every_step_up_to_the_largest_has_a_room(tiny):
    _, graphs = recorded(tiny)
    for rows in range(1, 7):
        for positions in range(rows, 201):
            room = graphs.fit(Room(rows, positions, 10))
            assert room is not None
            assert room.rows >= rows
            assert positions <= room.positions <= max(2 * positions, positions + 31)


def test_progress_is_told_to_the_end(tiny):
    engine = tiny().engine()
    shares = []
    engine.runner.record(max_rows=4, max_positions=20, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) == len(engine.runner.graphs)


@pytest.mark.parametrize("policy", ["chunk", "refresh", "stale", "stream"])
@pytest.mark.parametrize("flavour", ["sdar", "sdar_shift"])
def test_answers_do_not_depend_on_the_room(tiny, policy, flavour):
    model = tiny(flavour)
    told = []
    for record in (False, True):
        engine = model.engine(recorded=record)
        requests = [
            model.request(str(i), range(1, 4 + 9 * i), policy=policy, chunk=3 + i, max_new_tokens=20, temperature=i % 2)
            for i in range(4)
        ]
        told.append(finish(engine, requests, [0, 1, 1, 5])[0])
    assert told[0] == told[1]


def test_a_step_that_was_not_recorded_runs_as_it_is(tiny):
    model = tiny()
    engine = model.engine()
    engine.runner.record(max_rows=1, max_positions=4)
    requests = [model.request(str(i), range(1, 30), policy="block", max_new_tokens=9, stop_ids=()) for i in range(3)]
    answers, _ = finish(engine, requests)
    assert len(answers["0"]) == 9
    assert answers["0"] == answers["1"] == answers["2"]
