"""Confidence of masks -> which of them commit, and what becomes of the requests they belong to."""

from optimus_kernels.unmask.op import unmask

__all__ = ["unmask"]
