import pytest
import torch

from optimus_kernels.choose import Sampling, choose
from optimus_kernels.choose.reference import choose_reference
from tests.kernels.conftest import DEVICE, DTYPES

pytest.importorskip("triton")
from optimus_kernels.choose.kernel import choose_triton

# greedy, all, and each filter alone, strong, weak and together: (temperature, top_k or 0, top_p)
RULES = [
    (0.0, 5, 0.5),
    (1.0, 0, 1.0),
    (0.3, 0, 1.0),
    (1.0, 1, 1.0),
    (1.5, 7, 1.0),
    (1.0, 0, 0.3),
    (0.7, 0, 0.999),
    (1.0, 0, 1e-50),
    (2.0, 20, 0.8),
    (1.0, 3, 0.95),
]


def sampling(vocab, rows, seed=0):
    rules = [RULES[i % len(RULES)] for i in range(rows)]
    temperature, top_k, top_p = zip(*rules, strict=True)
    noise = torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Sampling(
        torch.tensor(temperature, dtype=torch.float64, device=DEVICE),
        torch.tensor([k or vocab for k in top_k], device=DEVICE),
        torch.tensor(top_p, dtype=torch.float64, device=DEVICE),
        noise.to(DEVICE),
    )


def random_logits(rows, vocab, dtype, *, rounded=False):
    logits = 2 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))
    return (logits.round() if rounded else logits).to(DEVICE, dtype)


def compare(logits, mask_id, plan, *, block):
    token, confidence, entropy = choose_triton(logits, mask_id, plan, entropy=True, block=block)
    expected = choose_reference(logits.double(), mask_id, plan, entropy=True)
    assert token.equal(expected[0])
    torch.testing.assert_close(confidence.double(), expected[1], rtol=2e-5, atol=0)
    torch.testing.assert_close(entropy.double(), expected[2], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [3, 130, 1000])
def test_greedy_kernel_equals_the_reference(vocab, dtype):
    compare(random_logits(4, vocab, dtype), 1, None, block=128)
    compare(random_logits(4, vocab, dtype), None, None, block=128)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "rounded"), [(130, False), (600, True)])
def test_sampling_kernel_draws_what_the_reference_draws(vocab, rounded, dtype):
    """Also with many equal logits, of which top-k and top-p keep the first."""
    compare(random_logits(10, vocab, dtype, rounded=rounded), 5, sampling(vocab, 10), block=128)


@pytest.mark.parametrize("op", [choose_triton, choose_reference])
def test_of_equal_logits_the_first_is_best(op):
    token, confidence, _ = op(torch.zeros(1, 200, device=DEVICE), 0)
    assert token.tolist() == [1]
    assert confidence.item() == pytest.approx(1 / 199)


@pytest.mark.parametrize("op", [choose_triton, choose_reference])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_row_that_is_no_number_stays_in_its_row(op, poison):
    logits = random_logits(12, 150, torch.float16)
    logits[3, 140] = poison
    logits[11] = torch.nan
    token, confidence, _ = op(logits, None, sampling(150, 12))
    assert (~confidence.isfinite()).nonzero()[:, 0].tolist() == [3, 11]
    assert ((token >= 0) & (token < 150)).all()


@pytest.mark.parametrize("op", [choose_triton, choose_reference])
def test_both_zeros_are_one_value(op):
    logits = torch.tensor([[0.0, -0.0, 0.0, -9.0, -9.0]] * 8, device=DEVICE, dtype=torch.float16)
    ones = torch.ones(8, device=DEVICE)
    plan = Sampling(ones, 2 * ones.long(), ones, torch.arange(8, device=DEVICE) / 8)
    assert op(logits, None, plan)[0].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("top_p", [0.5, 1.0])
@pytest.mark.parametrize("top_k", [3, 8])
def test_frequencies_equal_the_filtered_distribution(top_k, top_p):
    count = 40_000
    logits = 1.5 * torch.randn(8, generator=torch.Generator().manual_seed(1))
    expected = logits.double().softmax(-1)
    expected[expected.argsort(descending=True)[top_k:]] = 0
    expected /= expected.sum()
    left, total = torch.zeros(8, dtype=torch.bool), 0.0
    for index in expected.argsort(descending=True).tolist():
        if total < top_p:
            left[index] = True
            total += float(expected[index])
    expected = torch.where(left, expected, 0) / expected[left].sum()
    ones = torch.ones(count)
    plan = Sampling(ones, top_k * ones.long(), top_p * ones, torch.rand(count, generator=torch.Generator()))
    observed = torch.bincount(choose(logits.repeat(count, 1), None, plan)[0], minlength=8) / count
    assert (observed[expected == 0] == 0).all()
    # five standard deviations of a binomial share
    assert ((observed - expected).abs() <= 5 * (expected / count).sqrt() + 1e-9).all()
