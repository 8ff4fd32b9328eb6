"""Unmasking in torch, on matrices of one line for each row."""

import torch
from torch import Tensor

from optimus_kernels.slots import (
    CANVAS,
    DYNAMIC,
    END,
    ENTROPY,
    KNOWN,
    POLICY,
    RULE,
    SEQUENTIAL,
    SLOT,
    TRANSFER,
    WHOLE_BLOCK,
    Rows,
    Slots,
    Turns,
)


def unmask_reference(
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
    counts = rows.bounds.diff()
    column = torch.arange(span, device=token.device)
    # [rows, span]: the places of each row's masks among the step's; what has none is closed
    flat = (rows.bounds[:-1, None] + column).clamp(max=max(len(token) - 1, 0)).long()
    inside = column < counts[:, None]
    if len(token):
        chosen = _select(turns, rows, flat, inside, confidence, entropy, block_size=block_size, shift=shift)
        result = torch.zeros(len(token), dtype=torch.bool, device=token.device)
        result[flat[inside]] = chosen[inside]
        _move(slots, turns, rows, torch.where(chosen, token[flat], -1), block_size=block_size, shift=shift)
        return result
    _move(slots, turns, rows, column.expand(len(counts), -1) * 0 - 1, block_size=block_size, shift=shift)
    return token.bool()


def _select(
    turns: Turns,
    rows: Rows,
    flat: Tensor,
    inside: Tensor,
    confidence: Tensor,
    entropy: Tensor | None,
    *,
    block_size: int,
    shift: int,
) -> Tensor:
    """Which masks commit: bool ``[rows, span]``."""
    position = rows.positions[flat]
    masked = inside & (position >= 0)
    rule, transfer = turns.fields[RULE, :, None], turns.fields[TRANSFER, :, None]
    threshold, bound = turns.limits[:, :, None]
    certain = (position % block_size == 0) & (shift > 0)
    edge = position == rows.stops[:, None]
    key = confidence[flat].masked_fill(certain, 1)
    column = torch.arange(flat.shape[1], device=flat.device, dtype=key.dtype)
    key = torch.where(rule == SEQUENTIAL, -column, key)
    if entropy is not None:
        key = torch.where(rule == ENTROPY, -entropy[flat].masked_fill(certain, 0), key)
    least = key.masked_fill(~masked, torch.inf).amin(1, keepdim=True)
    key = torch.where(edge, least, key).masked_fill(~masked, -torch.inf)
    keys, order = key.sort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    above = (keys > threshold).sum(1, keepdim=True).maximum(transfer)
    count = torch.where(rule == DYNAMIC, above, transfer)
    if entropy is not None:
        below = ((-keys).cumsum(1) < bound).sum(1, keepdim=True)
        count = torch.where(rule == ENTROPY, below.clamp(min=1), count)
    return (rank < count) & masked


def _move(slots: Slots, turns: Turns, rows: Rows, taken: Tensor, *, block_size: int, shift: int) -> None:
    """Commit ``taken [rows, span]`` (-1 is nothing) from each frontier on, and move the lengths.

    The engine's ``Request.apply`` for all rows at once.
    """
    fields = turns.fields.long()
    slot, canvas = fields[SLOT], fields[CANVAS]
    cached, exact, drawn, frontier, steps, done = slots.lengths[slot].long().T
    start, stop = rows.starts.long(), rows.stops.long()
    position = frontier[:, None] + torch.arange(taken.shape[1], device=taken.device)
    inside = position < canvas[:, None]
    # Beyond the canvas nothing is missing, and nothing is written.
    last = position.clamp(max=slots.tokens.shape[1] - 1)
    tokens = torch.where(taken >= 0, taken, slots.tokens[slot[:, None], last])
    hole = (tokens < 0) | ~inside
    run = hole.int().argmax(1)
    after = frontier + torch.where(hole.any(1), run, taken.shape[1])
    sent = position < torch.minimum(after, fields[END])[:, None]
    stopped = ((tokens[:, :, None] == turns.stops[:, None, :]) & sent[:, :, None]).flatten(1).any(1)

    final = torch.minimum(stop, frontier)
    whole = torch.where(start <= exact, torch.maximum(exact, final // block_size * block_size), exact)
    settled = torch.where(fields[POLICY] == WHOLE_BLOCK, whole, torch.maximum(whole, final))
    settled = torch.maximum(cached, torch.minimum(settled, after - shift))
    moved = torch.stack(
        [
            settled,
            whole,
            torch.maximum(drawn, stop),
            after,
            steps + (stop + shift > fields[KNOWN]),
            (done > 0) | (after >= fields[END]) | stopped,
        ],
        dim=1,
    )
    went = stop > start
    slots.lengths[slot[went]] = moved[went].int()
    taken = (taken >= 0) & inside & went[:, None]
    slots.tokens[slot[:, None].expand_as(taken)[taken], position[taken]] = tokens[taken].int()
