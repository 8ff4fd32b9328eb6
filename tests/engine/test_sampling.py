import numpy as np
import pytest
import torch

from optimus_server.engine.sampling import SamplingPlan, choose, uniform


def plan(count, temperature=0.0, top_k=0, top_p=1.0, noise=None, vocab=8, entropy=False):
    sampled = count if temperature else 0
    return SamplingPlan(
        sampled=torch.arange(sampled),
        temperature=torch.full((sampled,), float(temperature), dtype=torch.float64),
        top_k=torch.full((sampled,), top_k or vocab),
        top_p=torch.full((sampled,), float(top_p), dtype=torch.float64),
        uniform=torch.zeros(sampled) if noise is None else torch.from_numpy(noise),
        entropy=entropy,
    )


def noise(count, seed=0):
    counters = np.arange(count, dtype=np.uint64)
    return uniform(np.full(count, seed, np.uint64), np.zeros(count, np.uint64), counters)


def test_greedy_takes_the_best_with_its_probability_at_temperature_one():
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    probs = logits.double().softmax(-1)
    token, confidence, entropy = choose(logits.clone(), plan(5, entropy=True), None)
    assert token.tolist() == probs.argmax(-1).tolist()
    torch.testing.assert_close(confidence.double(), probs.max(-1).values, rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy.double(), -(probs * probs.log()).sum(-1), rtol=1e-6, atol=0)


def test_the_mask_id_is_never_chosen_and_has_no_share():
    logits = torch.zeros(1, 8)
    logits[0, 3] = 50.0
    token, confidence, _ = choose(logits, plan(1), 3)
    assert token.item() != 3
    assert confidence.item() == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 3, 1.0), (1.3, 6, 0.8), (1.0, 0, 0.5)],
)
def test_frequencies_equal_the_filtered_distribution(temperature, top_k, top_p):
    count = 40_000
    logits = torch.randn(8, generator=torch.Generator().manual_seed(1)) * 1.5
    probs = (logits.double() / temperature).softmax(-1)
    expected = probs.clone()
    if top_k:
        expected[probs.argsort(descending=True)[top_k:]] = 0
    expected /= expected.sum()
    kept, total = torch.zeros(8, dtype=torch.bool), 0.0
    for index in expected.argsort(descending=True).tolist():
        if total >= top_p:
            break
        kept[index] = True
        total += float(expected[index])
    expected = torch.where(kept, expected, 0)
    expected /= expected.sum()

    sampling = plan(count, temperature, top_k, top_p, noise(count))
    token, confidence, _ = choose(logits.repeat(count, 1), sampling, None)
    observed = torch.bincount(token, minlength=8).double() / count
    assert (observed[expected == 0] == 0).all()
    # five standard deviations of a binomial share
    assert ((observed - expected).abs() <= 5 * (expected / count).sqrt() + 1e-9).all()
    torch.testing.assert_close(confidence.double(), probs[token], rtol=1e-5, atol=0)


def test_noise_is_uniform_and_depends_on_each_counter():
    draws = noise(100_000)
    assert 0 <= draws.min() < 1e-3
    assert 1 - 1e-3 < draws.max() < 1
    assert np.histogram(draws, bins=10, range=(0, 1))[0] == pytest.approx(10_000, rel=0.05)
    one = np.ones(1, np.uint64)
    base = uniform(one, one, one)
    for changed in ((one * 2, one, one), (one, one * 2, one), (one, one, one * 2)):
        assert uniform(*changed) != base
    big = np.array([2**64 - 1], np.uint64)
    assert 0 <= uniform(big, big, big)[0] < 1


def test_the_best_token_survives_any_top_p():
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    token, _, _ = choose(logits.clone(), plan(4, temperature=1.0, top_p=1e-50, noise=noise(4)), None)
    assert token.tolist() == logits.argmax(-1).tolist()


def test_a_row_of_nan_stays_in_its_row():
    logits = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    logits[0] = torch.nan
    _, confidence, _ = choose(logits, plan(2, temperature=1.0, noise=noise(2)), None)
    assert confidence.isfinite().tolist() == [False, True]
