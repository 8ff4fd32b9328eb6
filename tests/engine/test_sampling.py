import math

import numpy as np
import pytest
import torch

from optimus_kernels.choose import Sampling
from optimus_server.engine.sampling import Penalties, SamplingPlan, choose, uniform


def plan(count, temperature=0.0, top_k=0, top_p=1.0, typical_p=1.0, noise=None, vocab=8, **asked):
    if not temperature:
        return SamplingPlan(**asked)

    def every(value):
        return torch.full((count,), value, dtype=torch.float64)

    random = every(0.0) if noise is None else noise
    draws = Sampling(every(temperature), torch.full((count,), top_k or vocab), every(top_p), random)
    typical = (torch.arange(count), every(typical_p)) if typical_p < 1 else (None, None)
    return SamplingPlan(draws, *typical, **asked)


def noise(count, seed=0):
    return uniform(torch.full((count,), seed), torch.zeros(count, dtype=torch.int64), torch.arange(count))


def split_mix(seed, step, position):
    """The generator as published, on Python's integers."""

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    return (mix((mix((mix(seed) + step) % 2**64) + position) % 2**64) >> 11) * 2.0**-53


def test_greedy_takes_the_best_with_its_probability_at_temperature_one():
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    probs = logits.double().softmax(-1)
    choice = choose(logits.clone(), plan(5, entropy=True), None)
    assert choice.token.tolist() == probs.argmax(-1).tolist()
    torch.testing.assert_close(choice.confidence.double(), probs.max(-1).values, rtol=1e-6, atol=0)
    torch.testing.assert_close(choice.entropy.double(), -(probs * probs.log()).sum(-1), rtol=1e-6, atol=0)


def test_the_mask_id_is_never_chosen_and_has_no_share():
    logits = torch.zeros(1, 8)
    logits[0, 3] = 50.0
    choice = choose(logits, plan(1), 3)
    assert choice.token.item() != 3
    assert choice.confidence.item() == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "typical_p"),
    [
        (1.0, 0, 1.0, 1.0),
        (0.7, 0, 1.0, 1.0),
        (1.0, 3, 1.0, 1.0),
        (1.3, 6, 0.8, 1.0),
        (1.0, 0, 0.5, 1.0),
        (1.0, 0, 1.0, 0.4),
        (1.5, 6, 0.9, 0.7),
        (1.0, 0, 1.0, 0.01),
    ],
)
def test_frequencies_equal_the_filtered_distribution(temperature, top_k, top_p, typical_p):
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
    if typical_p < 1:
        expected = naive_typical(expected, typical_p)

    sampling = plan(count, temperature, top_k, top_p, typical_p, noise(count))
    choice = choose(logits.repeat(count, 1), sampling, None)
    token, confidence = choice.token, choice.confidence
    observed = torch.bincount(token, minlength=8).double() / count
    assert (observed[expected == 0] == 0).all()
    # five standard deviations of a binomial share
    assert ((observed - expected).abs() <= 5 * (expected / count).sqrt() + 1e-9).all()
    torch.testing.assert_close(confidence.double(), probs[token], rtol=1e-5, atol=0)


def naive_typical(probs, mass):
    """Meister et al. 2022, by hand: whose surprise is nearest to the entropy stays, until the mass is reached."""
    alive = [i for i, p in enumerate(probs.tolist()) if p > 0]
    surprise = {i: -math.log(float(probs[i])) for i in alive}
    entropy = sum(float(probs[i]) * surprise[i] for i in alive)
    kept, total = [], 0.0
    for i in sorted(alive, key=lambda i: abs(surprise[i] - entropy)):
        if total >= mass:
            break
        kept.append(i)
        total += float(probs[i])
    only = torch.zeros_like(probs)
    only[kept] = probs[kept]
    return only / only.sum()


def test_noise_is_uniform_and_depends_on_each_counter():
    draws = noise(100_000)
    assert 0 <= draws.min() < 1e-3
    assert 1 - 1e-3 < draws.max() < 1
    assert np.histogram(draws, bins=10, range=(0, 1))[0] == pytest.approx(10_000, rel=0.05)
    for key in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2**63 - 1, 3, 70_000)):
        assert float(uniform(*map(torch.tensor, key))) == split_mix(*key)
    # a seed of 64 bits comes as a signed number
    assert float(uniform(*map(torch.tensor, (-1, 0, 5)))) == split_mix(2**64 - 1, 0, 5)


def test_the_best_token_survives_any_top_p():
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    choice = choose(logits.clone(), plan(4, temperature=1.0, top_p=1e-50, noise=noise(4)), None)
    assert choice.token.tolist() == logits.argmax(-1).tolist()


def test_a_row_of_nan_stays_in_its_row():
    logits = torch.randn(2, 8, generator=torch.Generator().manual_seed(3))
    logits[0] = torch.nan
    choice = choose(logits, plan(2, temperature=1.0, noise=noise(2)), None)
    assert choice.confidence.isfinite().tolist() == [False, True]


def test_penalties_touch_the_tokens_of_their_own_request_only():
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    # Masks 0 and 2 belong to the one request with penalties, which has committed tokens 1 and 5.
    penalties = Penalties(
        mask=torch.tensor([0, 2]), row=torch.tensor([0, 0]),
        entry_row=torch.tensor([0, 0]), entry_id=torch.tensor([1, 5]),
        divide=torch.tensor([1.5, 1.5]), subtract=torch.tensor([0.0, 0.75]), rows=1,
    )  # fmt: skip
    expected = logits.clone()
    for mask in (0, 2):
        for token, subtract in ((1, 0.0), (5, 0.75)):
            value = float(expected[mask, token])
            expected[mask, token] = (value * 1.5 if value < 0 else value / 1.5) - subtract
    choice = choose(logits, plan(3, penalties=penalties), None)
    probs = expected.softmax(-1)
    assert choice.token.tolist() == probs.argmax(-1).tolist()
    torch.testing.assert_close(choice.confidence, probs.max(-1).values)


def test_the_best_tokens_come_in_order_with_their_probabilities():
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logprobs = (logits / 0.5).log_softmax(-1)
    top = choose(logits.clone(), plan(4, temperature=0.5, noise=noise(4), top_n=3), None).top
    ids, values = torch.stack(top[0::2], 1), torch.stack(top[1::2], 1)
    assert ids.tolist() == logprobs.argsort(descending=True)[:, :3].tolist()
    torch.testing.assert_close(values, logprobs.gather(1, ids))
    assert choose(logits.clone(), plan(4), None).top == ()
