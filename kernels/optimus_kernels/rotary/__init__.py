"""From the q, k, v projection to what attention reads: norms, rotary embedding, KV write."""

from optimus_kernels.rotary.op import norm_rotate_store

__all__ = ["norm_rotate_store"]
