"""Products with weights in plain torch: the definition, and what runs on a CPU."""

import torch.nn.functional as F
from torch import Tensor

from optimus_kernels.gate import silu_mul


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """See ``linear``."""
    return F.linear(x, weight, bias)


def gated_linear_reference(x: Tensor, weight: Tensor) -> Tensor:
    """See ``gated_linear``."""
    return silu_mul(F.linear(x, weight))
