"""Products of few positions with the weights of a layer, beside cuBLAS."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from optimus_kernels.bench.check import agrees
from optimus_kernels.bench.measure import DEVICE, Contender
from optimus_kernels.linear import MOST_POSITIONS
from optimus_kernels.linear.kernel import gated_linear_triton, linear_triton
from optimus_kernels.linear.reference import gated_linear_reference

# Of SDAR-8B: name, inputs, outputs; the gated one has twice its outputs, gate and up.
SHAPES = (("qkv", 4096, 6144), ("out", 4096, 4096), ("down", 12288, 4096))
GATED = (4096, 12288)
_FOOTPRINT = 400 * 2**20


def contenders(n: int) -> Iterator[Contender]:
    """All products of a layer, if a kernel of ours takes so many positions."""
    if n > MOST_POSITIONS:
        return
    for name, inputs, outputs in SHAPES:
        sets = _sets(n, inputs, outputs)
        yield Contender(f"product {name}", "triton", linear_triton, sets, sets[0][1].nbytes)
        yield Contender(f"product {name}", "cuBLAS", F.linear, sets, sets[0][1].nbytes)
    inputs, width = GATED
    sets = _sets(n, inputs, 2 * width)
    yield Contender("product and gate", "triton", gated_linear_triton, sets, sets[0][1].nbytes)
    yield Contender("product and gate", "cuBLAS and triton", gated_linear_reference, sets, sets[0][1].nbytes)


def _sets(n: int, inputs: int, outputs: int) -> list[tuple[Tensor, Tensor]]:
    def draw(rows: int) -> Tensor:
        return torch.randn(rows, inputs, device=DEVICE, dtype=torch.bfloat16)

    x = draw(n)
    return [(x, draw(outputs) / inputs**0.5) for _ in range(max(2, _FOOTPRINT // (2 * inputs * outputs)))]


def check(dtype: torch.dtype) -> list[str]:
    """What is wrong with these products, if anything."""
    wrong = []
    for n in (1, MOST_POSITIONS):
        for name, inputs, outputs in SHAPES:
            x, weight = (one.to(dtype) for one in _sets(n, inputs, outputs)[0])
            if not agrees(linear_triton(x, weight), x.float() @ weight.float().T):
                wrong.append(f"product {name} of {n} {dtype}")
        x, weight = (one.to(dtype) for one in _sets(n, GATED[0], 2 * GATED[1])[0])
        gate, up = ((x.float() @ half.float().T).to(dtype).float() for half in weight.chunk(2))
        if not agrees(gated_linear_triton(x, weight), F.silu(gate) * up):
            wrong.append(f"product and gate of {n} {dtype}")
    return wrong
