"""SiLU and multiply in Triton."""

import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels.overlap import follow, overlap

_BLOCK = 1024


def silu_mul_triton(gate_up: Tensor) -> Tensor:
    """See ``silu_mul``."""
    n, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty((n, width))
    _silu_mul[(n, triton.cdiv(width, _BLOCK))](
        gate_up, out, width, gate_up.stride(0), BLOCK=_BLOCK, num_warps=4, **overlap(gate_up.device)
    )
    return out


@triton.jit
def _silu_mul(gate_up, out, width, stride, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    follow(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    line = gate_up + row * stride
    gate = tl.load(line + column, mask=inside, other=0.0)
    up = tl.load(line + width + column, mask=inside, other=0.0).to(tl.float32)
    exact = gate.to(tl.float32)
    tl.store(out + row * width + column, (exact * tl.sigmoid(exact) * up).to(gate.dtype), mask=inside)
