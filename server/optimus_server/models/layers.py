"""Pieces shared by the decoders."""

import torch
from torch import Tensor, nn


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialised weight on the current default device (meta while a checkpoint is being loaded)."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


def rope_tables(positions: int, head_dim: int, theta: float, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosines and signed sines of the half-split ("neox") rotary embedding: [positions, 2, head_dim].

    ``x * table[:, 0] + swap_halves(x) * table[:, 1]`` rotates x (``norm_rotate_store``): the first half of the
    sines is negative.

    Angles are computed in fp32 for every dtype, as transformers does: checkpoints are trained with them.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float() / head_dim
    angles = torch.arange(positions, device=device).float()[:, None] * (1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1).to(dtype)
