"""The public functions: the one place where device and size choose the implementation."""

import torch
from torch import Tensor

from optimus_kernels.linear.reference import gated_linear_reference, linear_reference

# Above, the tensor cores count, and cuBLAS is faster.
MOST_POSITIONS = 32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [n, inputs] times weight [outputs, inputs] transposed, plus bias [outputs] -> [n, outputs]."""
    if _few(x):
        from optimus_kernels.linear.kernel import linear_triton

        return linear_triton(x, weight, bias)
    return linear_reference(x, weight, bias)


def gated_linear(x: Tensor, weight: Tensor) -> Tensor:
    """silu(x gate^T) * (x up^T) -> [n, width], for x [n, inputs] and weight [2 * width, inputs], gate above up."""
    if _few(x):
        from optimus_kernels.linear.kernel import gated_linear_triton

        return gated_linear_triton(x, weight)
    return gated_linear_reference(x, weight)


def _few(x: Tensor) -> bool:
    """Whether a kernel of ours takes it: few positions, on a GPU, in a type that tensor cores know."""
    return x.is_cuda and x.shape[0] <= MOST_POSITIONS and x.dtype in (torch.float16, torch.bfloat16)
