"""RMS norm in Triton: one program a row, which holds the whole row in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels.overlap import follow, overlap


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See ``rms_norm``; the sum is rounded to x's type before it is normed, as the reference does."""
    n, width = x.shape
    block = triton.next_power_of_2(width)
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(out)
    _rms_norm[(n,)](
        x,
        residual,
        weight,
        out,
        total,
        width,
        eps,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        BLOCK=block,
        num_warps=max(1, min(16, block // 512)),
        **overlap(x.device),
    )
    return out, total


@triton.jit
def _rms_norm(
    x, residual, weight, out, total, width, eps, x_stride, residual_stride, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    follow(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0)
    if residual is not None:
        other = tl.load(residual + row * residual_stride + column, mask=inside, other=0.0)
        value = (value.to(tl.float32) + other.to(tl.float32)).to(value.dtype)
        tl.store(total + row * width + column, value, mask=inside)
    exact = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(exact * exact, 0) / width + eps)
    factor = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + column, (exact * scale * factor).to(value.dtype), mask=inside)
