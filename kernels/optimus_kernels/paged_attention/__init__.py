"""Attention over a paged KV cache under the block staircase mask, for ragged rows."""

from optimus_kernels.paged_attention.op import paged_attention
from optimus_kernels.paged_attention.plan import AttentionPlan, Room, plan_attention

__all__ = ["AttentionPlan", "Room", "paged_attention", "plan_attention"]
