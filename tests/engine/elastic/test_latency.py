import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from optimus_server.engine.elastic.latency import LatencyModel, Profile, monotone

H100 = Profile((1, 128, 256, 512, 1024), (6e-3, 7e-3, 8e-3, 14e-3, 27e-3), 5e-8)
LOADS = [1, 60, 200, 400, 900, 1500]

clocks = st.one_of(st.floats(), st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 5e-324]))


def truth(positions, kv_tokens=0, factor=1.0):
    return factor * LatencyModel(H100).predict(positions, kv_tokens)


def test_a_profile_is_reproduced_at_its_knots_between_and_beyond():
    model = LatencyModel(H100)
    for n, seconds in zip(H100.positions, H100.seconds, strict=True):
        assert model.predict(n, 0) == pytest.approx(seconds)
    assert model.predict(384, 0) == pytest.approx(11e-3)
    assert model.predict(2048, 0) == pytest.approx(53e-3)
    assert model.predict(256, 1_000_000) == pytest.approx(8e-3 + 50e-3)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_profile_that_is_wrong_by_two_heals(factor):
    model = LatencyModel(H100.scaled(factor))
    for step in range(60):
        model.observe(LOADS[step % 6], 0, truth(LOADS[step % 6]))
    for n in LOADS:
        assert model.predict(n, 0) == pytest.approx(truth(n), rel=0.05)


def test_what_was_never_observed_goes_along():
    model = LatencyModel(H100)
    for _ in range(100):
        model.observe(200, 0, truth(200, factor=3))
    assert model.predict(200, 0) == pytest.approx(truth(200, factor=3), rel=0.01)
    assert model.predict(1024, 0) == pytest.approx(truth(1024, factor=3), rel=0.35)


def test_a_wrong_shape_heals_where_it_is_observed():
    flat = LatencyModel(Profile(H100.positions, (6e-3,) * 5, 0.0))
    for step in range(200):
        flat.observe(LOADS[step % 6], 0, truth(LOADS[step % 6]))
    for n in LOADS[:-1]:
        assert flat.predict(n, 0) == pytest.approx(truth(n), rel=0.15)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_slope_is_not_taken_for_a_slow_machine(factor):
    """What was seen of long steps says what short ones take, and does not have to be unlearned there."""
    floor = H100.seconds[0]
    wrong = Profile(H100.positions, tuple(floor + factor * (s - floor) for s in H100.seconds), 5e-8)
    model = LatencyModel(wrong)
    for step in range(30):
        n = (500, 900, 1500)[step % 3]
        model.observe(n, 0, truth(n))
    for n in (1, 64, 256):
        assert model.predict(n, 0) == pytest.approx(truth(n), rel=0.15)


def test_a_machine_that_becomes_slower_later_is_noticed():
    model, rng = LatencyModel(H100), np.random.default_rng(0)
    for step in range(2000):
        model.observe(LOADS[step % 6], 0, truth(LOADS[step % 6]) * float(np.exp(0.02 * rng.standard_normal())))
    known = model.predict(200, 0)
    model.observe(200, 0, 10 * known)
    assert model.predict(200, 0) == pytest.approx(known, rel=0.05)
    for _ in range(40):
        model.observe(200, 0, truth(200, factor=2))
    assert model.predict(200, 0) == pytest.approx(truth(200, factor=2), rel=0.05)


def test_noise_does_not_make_it_unsteady():
    model, rng = LatencyModel(H100), np.random.default_rng(0)
    seen = []
    for _ in range(2000):
        model.observe(200, 0, truth(200) * float(np.exp(0.05 * rng.standard_normal())))
        seen.append(model.predict(200, 0) / truth(200))
    assert np.std(seen[100:]) < 0.02


def test_one_late_step_is_not_a_slow_machine():
    model = LatencyModel(H100)
    model.observe(200, 0, 60.0)
    assert model.predict(200, 0) < 1.3 * truth(200)


STAIRS = Profile((1, 64, 128, 256, 288, 512, 1024), (4.0, 4.5, 5.0, 6.5, 7.8, 11.0, 22.0), 0.0, padded_to=512)


def test_a_step_takes_what_its_room_takes():
    model = LatencyModel(STAIRS)
    assert [model.predict(n, 0) for n in (1, 2, 64, 65, 257, 512)] == [4.0, 4.5, 4.5, 5.0, 7.8, 11.0]
    assert model.predict(768, 0) == pytest.approx(16.5)
    for _ in range(200):
        model.observe(257, 0, 9.0)
    assert model.predict(288, 0) == model.predict(257, 0) == pytest.approx(9.0, rel=0.02)
    assert Profile.from_json(STAIRS.to_json()) == STAIRS


def test_rows_that_wait_take_their_share_of_cheaper_steps():
    model = LatencyModel(STAIRS)

    def shared(positions, width):
        return float(model.shared_many(np.array([float(positions)]), np.array([float(width)]), 0)[0])

    # 262 rows of one position: 255.5 of them in each step of 256.
    assert shared(262, 1) == pytest.approx(6.5 * 262 / 255.5)
    # Two rows of 131: to let one wait would halve the step.
    assert shared(262, 131) == 7.8
    # The next room is cheaper than waiting, and a full one needs nobody to wait.
    assert shared(285, 1) == pytest.approx(6.5 * 285 / 255.5)
    assert shared(400, 1) == pytest.approx(6.5 * 400 / 255.5)
    assert shared(450, 1) == 11.0
    assert shared(256, 1) == 6.5
    # Beyond the last room nothing is padded.
    assert shared(600, 1) == model.predict(600, 0)


@given(st.integers(1, 1100), st.integers(1, 64))
def test_waiting_never_costs(positions, width):
    model, n = LatencyModel(STAIRS), np.array([float(positions)])
    assert model.shared_many(n, np.array([float(width)]), 100)[0] <= model.predict(positions, 100) * (1 + 1e-12)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-5, 5000), st.integers(0, 10**7), clocks), max_size=60))
def test_no_clock_breaks_it(observations):
    model = LatencyModel(H100)
    for positions, kv_tokens, seconds in observations:
        model.observe(positions, kv_tokens, seconds)
    grid = model.predict_many(np.arange(1.0, 4000.0, 37.0), 1000)
    assert np.isfinite(grid).all()
    assert (grid > 0).all()
    assert (np.diff(grid) >= -1e-12).all()
    assert model.predict(500, 10**6) >= model.predict(500, 0)


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30))
def test_monotone_is_the_nearest_sequence_that_never_falls(values):
    fitted = monotone(values)
    assert len(fitted) == len(values)
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(fitted))
    assert sum(fitted) == pytest.approx(sum(values))
    assert monotone(fitted) == pytest.approx(fitted)


@pytest.mark.parametrize(
    ("positions", "seconds", "per_kv"),
    [
        ((), (), 0.0), ((2, 1), (1.0, 1.0), 0.0), ((0,), (1.0,), 0.0), ((1, 2), (1.0,), 0.0), ((1,), (0.0,), 0.0),
        ((1,), (math.nan,), 0.0), ((1,), (1.0,), -1.0), ((1,), (1.0,), math.inf),
    ],
)  # fmt: skip
def test_a_profile_that_cannot_be_is_refused(positions, seconds, per_kv):
    with pytest.raises(ValueError):
        Profile(positions, seconds, per_kv)


def test_a_profile_survives_json():
    assert Profile.from_json(H100.to_json()) == H100
    for broken in ({}, {"positions": [1], "seconds": ["x"], "per_kv_token": 0}, {"positions": 3}):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Profile.from_json(broken)


def test_the_profile_stays_what_it_was_measured():
    model = LatencyModel(Profile((1, 64, 256), (1.0, 1.0, 4.0), 0.001))
    load = np.array([1.0, 160, 512]), np.array([0.0, 100, 0])
    before = model.profiled_many(*load).tolist()
    assert before == [model.predict(n, k) for n, k in zip(*load, strict=True)] == [1.0, 2.6, 8.0]
    for _ in range(50):
        model.observe(200, 0, 30.0)
    assert model.predict(200, 0) > 10
    assert model.profiled_many(*load).tolist() == before
