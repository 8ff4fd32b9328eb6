"""Norms, rotary embedding and KV write in plain torch: the definition, and what runs on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor


def norm_rotate_store_reference(
    qkv: Tensor,
    norm: Tensor | None,
    eps: float,
    table: Tensor,
    positions: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
) -> Tensor:
    """See ``norm_rotate_store``."""
    kv_heads, dim = k_pages.shape[2:]
    qk, v = qkv[:, :-kv_heads], qkv[:, -kv_heads:]
    if norm is not None:
        qk = F.rms_norm(qk, (dim,), eps=eps) * norm
    qk = _rotate(qk, table.index_select(0, positions))
    q, k = qk[:, :-kv_heads], qk[:, -kv_heads:]
    slots = slots.long()
    if (slots < 0).any():
        k, v, slots = k[slots >= 0], v[slots >= 0], slots[slots >= 0]
    k_pages.flatten(0, 1).index_copy_(0, slots, k)
    v_pages.flatten(0, 1).index_copy_(0, slots, v)
    return q


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """x [n, heads, D], table [n, 2, R] -> [n, heads, D]."""
    cos, signed_sin = table.unsqueeze(2).unbind(1)
    rotated = table.shape[-1]
    turning = x[..., :rotated]
    swapped = turning.roll(rotated // 2, -1)
    turned = (turning * cos).addcmul_(swapped, signed_sin)
    return turned if rotated == x.shape[-1] else torch.cat((turned, x[..., rotated:]), -1)
