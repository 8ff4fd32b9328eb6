"""When a kernel's output agrees with its reference: one table for tests and benchmarks."""

import torch
from torch import Tensor

# Largest error allowed, as root mean square and at any one element, both relative to the reference's root mean square.
TOLERANCE = {
    torch.float32: (2e-6, 5e-5),
    torch.float16: (1e-3, 2e-2),
    torch.bfloat16: (6e-3, 1e-1),
}


def errors(out: Tensor, expected: Tensor) -> tuple[float, float]:
    """Root mean square and largest difference, relative to the expected root mean square; NaN is infinite."""
    exact = expected.double()
    scale = exact.square().mean().sqrt().clamp(min=1e-30)
    difference = torch.nan_to_num((out.double() - exact) / scale, nan=torch.inf)
    return float(difference.square().mean().sqrt()), float(difference.abs().max())


def agrees(out: Tensor, expected: Tensor) -> bool:
    """Whether ``out`` is within its dtype's tolerance of ``expected``, which is of higher precision."""
    return all(error <= limit for error, limit in zip(errors(out, expected), TOLERANCE[out.dtype], strict=True))
