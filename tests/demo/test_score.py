import numpy as np
import pytest

from optimus_server.demo.score import Outcome, Score


def outcomes(rights=(), tokens=(), steps=(), computed=()):
    count = max(map(len, (rights, tokens, steps, computed)))

    def column(values, other):
        return values or [other] * count

    rows = zip(column(rights, True), column(tokens, 1), column(steps, 1), column(computed, 1), strict=True)
    return [Outcome("t", True, right, *figures) for right, *figures in rows]


def test_figures_are_ratios_of_sums():
    score = Score(outcomes(tokens=[10, 30], steps=[10, 10], computed=[20, 100]))
    assert score.tpf == 2.0  # the mean of the two prompts' own would be 2.0 of (1, 3), of computed 2.67
    assert score.computed_per_token == 3.0


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_of_accuracy_is_wilsons(right, count, low, high):
    score = Score(outcomes(rights=[True] * right + [False] * (count - right)))
    assert score.accuracy_interval() == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_bootstrap_intervals_cover_as_often_as_they_say():
    """100 samples from one population: its own ratio lies in about 95 of their intervals."""
    rng = np.random.default_rng(7)
    population_tokens, population_steps = rng.integers(5, 200, 20_000), rng.integers(5, 60, 20_000)
    truth = population_tokens.sum() / population_steps.sum()
    inside = 0
    for _ in range(100):
        drawn = rng.integers(0, 20_000, 150)
        low, high = Score(
            outcomes(tokens=population_tokens[drawn].tolist(), steps=population_steps[drawn].tolist())
        ).tpf_interval()
        inside += low < truth < high
    assert 88 <= inside <= 99


def test_the_same_outcomes_have_the_same_interval():
    some = outcomes(tokens=[3, 5, 8], steps=[1, 2, 3])
    assert Score(some).tpf_interval() == Score(some).tpf_interval()


def test_no_outcomes():
    score = Score([])
    assert (score.accuracy, score.tpf, score.computed_per_token) == (0, 0, 0)
    assert score.accuracy_interval() == pytest.approx((0, 1), abs=0.3)
    assert score.tpf_interval() == (0, 0)
