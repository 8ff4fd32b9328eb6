"""Products of few positions with weights, in Triton.

Each weight is used for a few positions only, so the time of a product is that of reading its weights. A program takes
some outputs, all positions and one part of the inputs; the weights are the left operand of its products, which
tensor cores want to be the longer one. Where the outputs are too few to occupy the card, the inputs are split: the
program that comes last adds up the parts, in their order, so that the sum is the same every time.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels.device import cores, shared_memory
from optimus_kernels.overlap import follow, overlap


@dataclass(frozen=True)
class Tile:
    """Shape of a program's work: outputs, inputs a step, warps of 32 threads, steps in flight together."""

    outputs: int
    inputs: int
    warps: int
    stages: int


PLAIN, GATED = Tile(64, 128, 4, 6), Tile(32, 128, 2, 3)
_LEAST_INPUTS = 1024


def linear_triton(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, splits: int | None = None) -> Tensor:
    """See ``linear``."""
    return _launch(x, weight, bias, len(weight), PLAIN, splits)


def gated_linear_triton(x: Tensor, weight: Tensor) -> Tensor:
    """See ``gated_linear``; gate and up are rounded to x's type first, as the reference does."""
    return _launch(x, weight, None, len(weight) // 2, GATED, 1, gate=True)


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, width: int, tile: Tile, splits: int | None, *, gate: bool = False
) -> Tensor:
    n, inputs = x.shape
    positions = max(16, triton.next_power_of_2(n))
    tiles = triton.cdiv(width, tile.outputs)
    steps = triton.cdiv(inputs, tile.inputs)
    if splits is None:
        # a program a core, but no part without some hundred inputs
        splits = max(1, min(cores(x.device) // tiles, inputs // _LEAST_INPUTS))
    share = triton.cdiv(steps, splits) * tile.inputs
    splits = triton.cdiv(inputs, share)
    a_step = (tile.outputs * (2 if gate else 1) + positions) * tile.inputs * x.element_size()
    out = x.new_empty((n, width))
    parts = x.new_empty((tiles, splits, tile.outputs * positions), dtype=torch.float32) if splits > 1 else None
    _linear[(tiles, splits)](
        x,
        weight,
        bias,
        out,
        parts,
        tickets(x.device) if splits > 1 else None,
        n,
        x.stride(0),
        WIDTH=width,
        INPUTS=inputs,
        SHARE=share,
        SPLITS=splits,
        GATE=gate,
        OUTPUTS=tile.outputs,
        POSITIONS=positions,
        STEP=tile.inputs,
        STAGES=max(1, min(tile.stages, shared_memory(x.device) // a_step)),
        num_warps=tile.warps,
        **overlap(x.device),
    )
    return out


@cache
def tickets(device: torch.device) -> Tensor:
    """How many programs of each tile are done; the last one sets it back to 0, for the next product on this stream."""
    return torch.zeros(2**14, device=device, dtype=torch.int32)


@triton.jit(do_not_specialize=["n"])
def _linear(
    x,
    weight,
    bias,
    out,
    parts,
    tickets,
    n,
    stride,
    WIDTH: tl.constexpr,
    INPUTS: tl.constexpr,
    SHARE: tl.constexpr,
    SPLITS: tl.constexpr,
    GATE: tl.constexpr,
    OUTPUTS: tl.constexpr,
    POSITIONS: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One tile of outputs, one part of the inputs; with GATE the weights of what is gated lie WIDTH outputs further."""
    follow(OVERLAP)
    tile, split = tl.program_id(0), tl.program_id(1)
    low = split * SHARE
    # [OUTPUTS], [POSITIONS]
    output = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    position = tl.arange(0, POSITIONS)
    wanted, live = output < WIDTH, position < n
    EVEN: tl.constexpr = WIDTH % OUTPUTS == 0 and INPUTS % STEP == 0
    step = tl.arange(0, STEP)
    lines = weight + output[:, None].to(tl.int64) * INPUTS
    rows = x + position[:, None] * stride
    acc = tl.zeros([OUTPUTS, POSITIONS], tl.float32)
    up = tl.zeros([OUTPUTS, POSITIONS], tl.float32)
    for begin in tl.range(low, tl.minimum(low + SHARE, INPUTS), STEP, num_stages=STAGES):
        column = (begin + step)[None, :]
        values = tl.trans(tl.load(rows + column, mask=live[:, None] & (column < INPUTS), other=0.0))
        acc = tl.dot(_weights(lines, column, wanted, INPUTS, EVEN), values, acc, input_precision="ieee")
        if GATE:
            w = _weights(lines + WIDTH * INPUTS, column, wanted, INPUTS, EVEN)
            up = tl.dot(w, values, up, input_precision="ieee")

    if SPLITS > 1:
        place = tl.arange(0, OUTPUTS)[:, None] * POSITIONS + position[None, :]
        mine = parts + tile * SPLITS * OUTPUTS * POSITIONS + place
        tl.store(mine + split * OUTPUTS * POSITIONS, acc)
        # all threads of this program have stored before one of them says so
        tl.debug_barrier()
        if tl.atomic_add(tickets + tile, 1, sem="acq_rel", scope="gpu") != SPLITS - 1:
            return
        tl.store(tickets + tile, 0)
        acc = tl.zeros([OUTPUTS, POSITIONS], tl.float32)
        for part in tl.static_range(SPLITS):
            acc += tl.load(mine + part * OUTPUTS * POSITIONS)
    kind = out.dtype.element_ty
    if bias is not None:
        acc += tl.load(bias + output, mask=wanted, other=0.0).to(tl.float32)[:, None]
    if GATE:
        gate = acc.to(kind).to(tl.float32)
        acc = gate * tl.sigmoid(gate) * up.to(kind).to(tl.float32)
    tl.store(out + position[None, :] * WIDTH + output[:, None], acc.to(kind), mask=live[None, :] & wanted[:, None])


@triton.jit
def _weights(lines, column, wanted, INPUTS: tl.constexpr, EVEN: tl.constexpr):
    """[outputs, inputs] of one step; each is read once, so the cache had better keep something else."""
    if EVEN:
        return tl.load(lines + column, eviction_policy="evict_first")
    else:
        return tl.load(lines + column, mask=wanted[:, None] & (column < INPUTS), other=0.0)
