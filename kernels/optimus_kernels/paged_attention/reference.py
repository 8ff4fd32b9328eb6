"""Paged attention in plain torch: the definition the kernel is tested against, and what runs on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from optimus_kernels.paged_attention.groups import RowGroup
from optimus_kernels.paged_attention.plan import AttentionPlan


def paged_attention_reference(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: AttentionPlan) -> Tensor:
    """One padded SDPA call per group of similar rows; [n, Hq, D] -> [n, Hq, D]."""
    padded = plan.padded
    if not padded.groups:
        return torch.zeros_like(q)
    # [pages * page_size, Hkv, D]
    k_slots, v_slots = k_pages.flatten(0, 1), v_pages.flatten(0, 1)
    outputs = [_attend(q, k_slots, v_slots, group) for group in padded.groups]
    if padded.restore is None:
        return outputs[0]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).index_select(0, padded.restore)


def _attend(q: Tensor, k_slots: Tensor, v_slots: Tensor, group: RowGroup) -> Tensor:
    """-> [rows * width, Hq, D]."""
    rows, width, span = group.rows, group.width, group.span
    kv_heads, dim = k_slots.shape[1:]
    if group.queries is not None:
        q = q.index_select(0, group.queries)
    # [rows, Hkv, span, D]
    k = k_slots.index_select(0, group.keys).view(rows, span, kv_heads, dim).transpose(1, 2)
    v = v_slots.index_select(0, group.keys).view(rows, span, kv_heads, dim).transpose(1, 2)
    if not group.uniform:
        q = q.view(rows, width, -1, dim).transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask, enable_gqa=True)
        return out.transpose(1, 2).reshape(rows * width, -1, dim)
    # Where all queries of a row see the same keys, the heads that share a KV head are queries like any other: one
    # taller product for all of them.
    q = q.view(rows, width, kv_heads, -1, dim).transpose(1, 2).reshape(rows, kv_heads, -1, dim)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask)
    return out.view(rows, kv_heads, width, -1, dim).transpose(1, 2).reshape(rows * width, -1, dim)
