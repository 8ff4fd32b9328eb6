import pytest
import torch

from optimus_kernels.bench.check import agrees
from optimus_kernels.gate import silu_mul
from tests.kernels.conftest import DEVICE, DTYPES

pytest.importorskip("triton")
from optimus_kernels.gate.kernel import silu_mul_triton


def formula(gate_up):
    gate, up = gate_up.double().chunk(2, -1)
    return gate / (1 + (-gate).exp()) * up


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 100, 1500])
def test_kernel_is_the_formula(width, dtype):
    gate_up = (3 * torch.randn(5, 2 * width, generator=torch.Generator().manual_seed(width))).to(DEVICE, dtype)
    out = silu_mul_triton(gate_up)
    assert out.shape == (5, width)
    assert agrees(out, formula(gate_up))


def test_reference_is_the_formula():
    gate_up = torch.randn(3, 8, dtype=torch.float64)
    torch.testing.assert_close(silu_mul(gate_up), formula(gate_up), rtol=1e-12, atol=0)
