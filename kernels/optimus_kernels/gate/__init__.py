"""The gate of a gated MLP."""

from optimus_kernels.gate.op import silu_mul

__all__ = ["silu_mul"]
