import pytest
import torch

from optimus_kernels.bench.check import agrees
from optimus_kernels.norm import rms_norm
from optimus_kernels.norm.reference import rms_norm_reference
from tests.kernels.conftest import DEVICE, DTYPES

pytest.importorskip("triton")
from optimus_kernels.norm.kernel import rms_norm_triton


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [8, 100, 4096])
@pytest.mark.parametrize("with_residual", [False, True])
def test_kernel_equals_the_reference(width, with_residual, dtype):
    generator = torch.Generator().manual_seed(width)
    # rows that are apart in memory
    x = torch.randn(5, width + 3, generator=generator).to(DEVICE, dtype)[:, :width]
    residual = torch.randn(5, width, generator=generator).to(DEVICE, dtype) if with_residual else None
    weight = torch.randn(width, generator=generator).to(DEVICE, dtype)
    normed, total = rms_norm_triton(x, weight, 1e-6, residual)
    exact = x.double() if residual is None else x.double() + residual.double()
    assert agrees(total, exact)
    assert agrees(normed, rms_norm_reference(total.double(), weight.double(), 1e-6)[0])


def test_the_reference_is_the_formula():
    x, residual, weight = (torch.randn(4, 6, dtype=torch.float64) for _ in range(3))
    normed, total = rms_norm(x, weight[0], 0.5, residual)
    assert total.equal(x + residual)
    expected = total / (total.square().mean(-1, keepdim=True) + 0.5).sqrt() * weight[0]
    torch.testing.assert_close(normed, expected, rtol=1e-12, atol=0)
    assert rms_norm(x, weight[0], 0.5)[1] is x
