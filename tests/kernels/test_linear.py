import pytest
import torch

from optimus_kernels.bench.check import agrees
from optimus_kernels.linear import gated_linear, linear
from tests.kernels.conftest import DEVICE, DTYPES

pytest.importorskip("triton")
from optimus_kernels.linear.kernel import gated_linear_triton, linear_triton, tickets


def draw(*shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "inputs", "outputs"), [(1, 256, 128), (17, 384, 100), (33, 100, 64), (64, 512, 192)])
@pytest.mark.parametrize("splits", [1, 2, 3])
def test_kernel_is_the_product(n, inputs, outputs, splits, dtype):
    # rows that are apart in memory
    x = draw(n, inputs + 8, dtype=dtype)[:, :inputs]
    weight, bias = draw(outputs, inputs, dtype=dtype, seed=1), draw(outputs, dtype=dtype, seed=2)
    exact = x.double() @ weight.double().T
    assert agrees(linear_triton(x, weight, splits=splits), exact)
    assert agrees(linear_triton(x, weight, bias, splits=splits), exact + bias.double())
    # whoever comes last leaves them as they were
    assert not tickets(x.device).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "inputs", "width"), [(1, 256, 128), (20, 100, 70), (40, 256, 64)])
def test_gated_kernel_is_the_formula(n, inputs, width, dtype):
    x, weight = draw(n, inputs, dtype=dtype), draw(2 * width, inputs, dtype=dtype, seed=1) / inputs**0.5
    gate, up = ((x.double() @ half.double().T).to(dtype).double() for half in weight.chunk(2))
    assert agrees(gated_linear_triton(x, weight), gate / (1 + (-gate).exp()) * up)


def test_a_sum_in_parts_is_the_same_every_time():
    x, weight = draw(16, 4096, dtype=torch.float16), draw(64, 4096, dtype=torch.float16, seed=1)
    first = linear_triton(x, weight, splits=4)
    assert all(linear_triton(x, weight, splits=4).equal(first) for _ in range(5 if DEVICE == "cuda" else 1))


def test_references_are_the_formulas():
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4), (6, 4), (6,)))
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.T + bias)
    gate, up = (x @ weight.T).chunk(2, -1)
    torch.testing.assert_close(gated_linear(x, weight), gate / (1 + (-gate).exp()) * up)
