"""Unmasking in one Triton kernel: a program for each row. Ranks come from comparing all pairs of a row's masks."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels import slots as codes
from optimus_kernels.slots import Rows, Slots, Turns

# Rows of ``Turns.fields``, columns of ``Slots.lengths``, the policy and the rules that are told apart.
_SLOT, _KNOWN, _END = (tl.constexpr(code) for code in (codes.SLOT, codes.KNOWN, codes.END))
_CANVAS, _POLICY = tl.constexpr(codes.CANVAS), tl.constexpr(codes.POLICY)
_RULE, _TRANSFER = tl.constexpr(codes.RULE), tl.constexpr(codes.TRANSFER)
_LENGTHS = tl.constexpr(codes.DONE + 1)
_CACHED, _EXACT, _DRAWN = (tl.constexpr(code) for code in (codes.CACHED, codes.EXACT, codes.DRAWN))
_FRONTIER, _STEPS, _DONE = (tl.constexpr(code) for code in (codes.FRONTIER, codes.STEPS, codes.DONE))
_BLOCK, _DYNAMIC = tl.constexpr(codes.WHOLE_BLOCK), tl.constexpr(codes.DYNAMIC)
_SEQUENTIAL, _ENTROPY = tl.constexpr(codes.SEQUENTIAL), tl.constexpr(codes.ENTROPY)


def unmask_triton(
    slots: Slots,
    turns: Turns,
    rows: Rows,
    token: Tensor,
    confidence: Tensor,
    entropy: Tensor | None,
    *,
    block_size: int,
    shift: int,
    span: int,
) -> Tensor:
    """See ``unmask``."""
    count = turns.fields.shape[1]
    chosen = torch.zeros(len(token), dtype=torch.bool, device=token.device)
    _unmask[(count,)](
        slots.tokens, slots.lengths, turns.fields, turns.limits, turns.stops, rows.starts, rows.stops, rows.bounds,
        rows.positions, token, confidence, entropy, chosen,
        count, slots.tokens.stride(0), shift,
        BLOCK=block_size, STOPS=turns.stops.shape[1], SPAN=triton.next_power_of_2(span), num_warps=4,
    )  # fmt: skip
    return chosen


# Numbers and addresses that change from step to step must not select another compilation.
@triton.jit(
    do_not_specialize=["count", "stride", "shift"],
    do_not_specialize_on_alignment=[
        "fields", "limits", "stop_ids", "starts", "stops", "bounds", "positions", "tokens_new", "confidence", "entropy",
        "chosen",
    ],
)  # fmt: skip
def _unmask(
    tokens,
    lengths,
    fields,
    limits,
    stop_ids,
    starts,
    stops,
    bounds,
    positions,
    tokens_new,
    confidence,
    entropy,
    chosen,
    count,
    stride,
    shift,
    BLOCK: tl.constexpr,
    STOPS: tl.constexpr,
    SPAN: tl.constexpr,
):
    row = tl.program_id(0)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    if start == stop:
        return
    slot = tl.load(fields + _SLOT * count + row).to(tl.int64)
    known, end = tl.load(fields + _KNOWN * count + row), tl.load(fields + _END * count + row)
    canvas, policy = tl.load(fields + _CANVAS * count + row), tl.load(fields + _POLICY * count + row)
    rule, transfer = tl.load(fields + _RULE * count + row), tl.load(fields + _TRANSFER * count + row)
    threshold, bound = tl.load(limits + row), tl.load(limits + count + row)
    state = lengths + slot * _LENGTHS
    cached, exact, drawn = tl.load(state + _CACHED), tl.load(state + _EXACT), tl.load(state + _DRAWN)
    frontier, steps = tl.load(state + _FRONTIER), tl.load(state + _STEPS)

    column = tl.arange(0, SPAN)
    first = tl.load(bounds + row)
    offered = column < tl.load(bounds + row + 1) - first
    position = tl.load(positions + first + column, mask=offered, other=-1)
    masked = offered & (position >= 0)
    certain = (position % BLOCK == 0) & (shift > 0)
    key = tl.load(confidence + first + column, mask=masked, other=0.0)
    key = tl.where(certain, 1.0, key)
    key = tl.where(rule == _SEQUENTIAL, -column.to(key.dtype), key)
    if entropy is not None:
        disorder = tl.load(entropy + first + column, mask=masked, other=0.0)
        key = tl.where(rule == _ENTROPY, -tl.where(certain, 0.0, disorder), key)
    least = tl.min(tl.where(masked, key, float("inf")), 0)
    key = tl.where(position == stop, least, key)
    key = tl.where(masked, key, float("-inf"))
    # [one, other]: whether the other comes before it
    before = (key[None, :] > key[:, None]) | ((key[None, :] == key[:, None]) & (column[None, :] < column[:, None]))
    rank = tl.sum(before.to(tl.int32), 1)
    above = tl.sum((key.to(tl.float64) > threshold).to(tl.int32), 0)
    number = tl.where(rule == _DYNAMIC, tl.maximum(above, transfer), transfer)
    if entropy is not None:
        cost = tl.where(masked, -key, 0.0)
        so_far = cost + tl.sum(tl.where(before, cost[None, :], 0.0), 1)
        below = tl.sum((masked & (so_far.to(tl.float64) < bound)).to(tl.int32), 0)
        number = tl.where(rule == _ENTROPY, tl.maximum(below, 1), number)
    taken = masked & (rank < number)
    tl.store(chosen + first + column, taken, mask=offered)

    # A row's masks begin at its frontier.
    place = frontier + column
    inside = place < canvas
    old = tl.load(tokens + slot * stride + place, mask=inside, other=-1)
    new = tl.load(tokens_new + first + column, mask=taken, other=0).to(tl.int32)
    tl.store(tokens + slot * stride + place, new, mask=taken)
    now = tl.where(taken, new, old)
    after = frontier + tl.min(tl.where(now < 0, column, SPAN), 0)
    sent = place < tl.minimum(after, end)
    ended = after >= end
    for i in range(STOPS):
        ended |= tl.sum((sent & (now == tl.load(stop_ids + row * STOPS + i))).to(tl.int32), 0) > 0

    final = tl.minimum(stop, frontier)
    whole = tl.where(start <= exact, tl.maximum(exact, final // BLOCK * BLOCK), exact)
    settled = tl.where(policy == _BLOCK, whole, tl.maximum(whole, final))
    settled = tl.maximum(cached, tl.minimum(settled, after - shift))
    tl.store(state + _CACHED, settled)
    tl.store(state + _EXACT, whole)
    tl.store(state + _DRAWN, tl.maximum(drawn, stop))
    tl.store(state + _FRONTIER, after)
    tl.store(state + _STEPS, steps + (stop + shift > known).to(tl.int32))
    tl.store(state + _DONE, ended.to(tl.int32))
