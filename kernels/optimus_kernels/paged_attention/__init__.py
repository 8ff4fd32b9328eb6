"""Attention over a paged KV cache under the block staircase mask, for ragged rows."""

from optimus_kernels.paged_attention.op import paged_attention, write_kv
from optimus_kernels.paged_attention.plan import AttentionPlan, RowGroup, plan_attention

__all__ = ["AttentionPlan", "RowGroup", "paged_attention", "plan_attention", "write_kv"]
