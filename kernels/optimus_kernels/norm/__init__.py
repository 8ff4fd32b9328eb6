"""RMS norm, with the residual added on the way."""

from optimus_kernels.norm.op import rms_norm

__all__ = ["rms_norm"]
