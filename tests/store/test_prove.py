"""The log under stress, in small; ``prove.py`` says how it is done at full size."""

import statistics

import pytest

from tests.store import cost, prove
from tests.store.samples import NOW_US


def test_kill_9_loses_nothing_older_than_a_second(tmp_path):
    for number in range(2):
        found = prove.kill(tmp_path / "log.db", after_s=1.5 + 0.3 * number)
        assert found.integrity == "ok"
        assert found.owed > 50
        assert found.lost == 0


def test_a_flood_is_taken(tmp_path):
    found = prove.flood(tmp_path / "log.db", seconds=2)
    assert found.dropped == 0
    assert found.stored == found.submitted >= 4000
    # The 99th percentile needs a machine to itself; the median is the code's own.
    assert found.p50_ms < 0.1


def test_questions_to_a_large_log_read_little_of_it(tmp_path):
    """Ten times the requests in as many more days must not make the day's questions much slower."""
    small, large = tmp_path / "small.db", tmp_path / "large.db"
    prove.fill(small, 2000, days=3, now_us=NOW_US)
    prove.fill(large, 20_000, days=30, now_us=NOW_US)
    before, after = (prove.questions(place, NOW_US, rounds=3) for place in (small, large))
    scans = {"slow, few", "slow, none", "status that never was", "finish that never was", "of a client, slow"}
    ratios = [after[name] / before[name] for name in before if name not in scans]
    assert statistics.median(ratios) < 3


def test_the_log_does_not_change_a_step_much(model_dir, tmp_path):
    """A step of the tests' model takes a fraction of a real one's time, so this bound is loose."""
    found = cost.step_cost(model_dir, tmp_path / "log.db", pairs=10, block=20, requests=4, tokens=32)
    assert found.cpu.low < found.cpu.median < 1.3
    assert found.steps == 10 * 15
    assert 0 < found.told < 0.1


def test_an_interval_holds_what_most_pairs_say():
    ratio = cost.Ratio.of([1.0 + number / 100 for number in range(101)])
    assert ratio.median == 1.5
    assert (ratio.low, ratio.high) == pytest.approx((1.39, 1.61), abs=0.011)
