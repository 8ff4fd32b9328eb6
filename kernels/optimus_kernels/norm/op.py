"""The public function: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.norm.reference import rms_norm_reference


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """RMS norm of ``x + residual``, computed in fp32 for the half types and in x's own type otherwise.

    Args:
        x, residual: [n, width]; rows may be apart in memory, but their values are neighbours.
        weight: [width].

    Returns:
        The norm and the sum, both [n, width]; without a residual the sum is x itself.
    """
    if x.is_cuda:
        from optimus_kernels.norm.kernel import rms_norm_triton

        return rms_norm_triton(x, weight, eps, residual)
    return rms_norm_reference(x, weight, eps, residual)
