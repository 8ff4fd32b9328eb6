"""What a simulator is told."""

import pytest

from optimus_server.store.queries import Filter, Log
from optimus_server.store.records import StepRecord
from optimus_server.store.workload import workload
from tests.store.samples import NOW_US, recording, request


def step(start, width, frontier, masks, advance, *positions):
    return StepRecord(
        1.0, start, start + width, width, frontier, masks, advance, positions, (90,) * len(positions), 1, 0, 1.0, "hold"
    )


@pytest.fixture
def log(place):
    steps = (step(0, 10, 10, 0, 0), step(10, 4, 10, 4, 2, 10, 11), step(10, 4, 12, 2, 1, 12))
    with recording(place) as recorder:
        recorder.submit(request(0, trace=steps, prompt_tokens=10, generated_tokens=3, max_new_tokens=8))
        recorder.submit(request(1, status=429, generated_tokens=None, trace=()))
        recorder.submit(request(4, trace=(step(10, 2, 10, 2, 2, 10, 11),), generated_tokens=2, policy="block"))
    found = Log(place)
    yield found
    found.close()


def test_arrivals_and_yields(log):
    found = workload(log)
    first, second = found.arrivals
    assert (first.at_s, second.at_s) == (0.0, 4.0)
    assert (first.prompt_tokens, first.generated_tokens, first.max_new_tokens) == (10, 3, 8)
    assert first.policy == "chunk"
    assert first.yields == ((4, 2), (2, 1))
    assert second.yields == ((2, 2),)
    # Windows of 4, 2 and 2; commits at the first offset in all of them, at the second in two.
    assert found.offered == (3, 3, 1, 1)
    assert found.committed == (3, 2, 0, 0)


def test_part_of_a_log(log):
    assert len(workload(log, Filter(since_us=NOW_US + 10**6)).arrivals) == 1
    assert len(workload(log, newest=1).arrivals) == 1
    nothing = workload(log, Filter(client="nobody"))
    assert nothing == type(nothing)((), (), ())


def test_with_shifted_logits_a_window_reaches_one_further(place):
    with recording(place, logit_shift=1) as recorder:
        recorder.submit(request(trace=(step(9, 4, 10, 4, 1, 10),)))
    log = Log(place)
    assert workload(log).arrivals[0].yields == ((4, 1),)
    log.close()
