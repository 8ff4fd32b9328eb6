"""The public function: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.gate.reference import silu_mul_reference


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, for gate_up [n, 2 * width] whose rows hold the gate, then what it gates -> [n, width]."""
    if gate_up.is_cuda:
        from optimus_kernels.gate.kernel import silu_mul_triton

        return silu_mul_triton(gate_up)
    return silu_mul_reference(gate_up)
