"""Tokens and lengths of requests -> the rows of a step, on the device."""

from optimus_kernels.layout.op import lay_out

__all__ = ["lay_out"]
