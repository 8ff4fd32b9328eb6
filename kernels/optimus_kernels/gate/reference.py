"""SiLU and multiply in plain torch: the definition, and what runs on a CPU."""

import torch.nn.functional as F
from torch import Tensor


def silu_mul_reference(gate_up: Tensor) -> Tensor:
    """See ``silu_mul``."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)
