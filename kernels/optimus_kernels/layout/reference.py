"""The layout of a step in torch."""

import torch
from torch import Tensor

from optimus_kernels.paged_attention import AttentionPlan
from optimus_kernels.slots import (
    CANVAS,
    CHUNK,
    CUT,
    ELASTIC,
    FRONTIER,
    KNOWN,
    POLICY,
    REFRESH,
    SLOT,
    STALE,
    STREAM,
    WHOLE_BLOCK,
    Rows,
    Slots,
    Turns,
)


def lay_out_reference(
    slots: Slots, turns: Turns, places: Tensor, plan: AttentionPlan, *, masks: int, shift: int, mask_id: int
) -> Rows:
    """See ``lay_out``."""
    fields, n, block = turns.fields.long(), places.shape[1], plan.block_size
    slot, canvas = fields[SLOT], fields[CANVAS]
    frontier = slots.lengths[slot, FRONTIER].long()
    start, stop, visible = _ranges(slots, fields, block, shift)
    width = stop - start
    length = (torch.minimum(stop + shift, canvas) - frontier).clamp(min=0) * (width > 0)
    fits = (width.cumsum(0) <= n) & (length.cumsum(0) <= masks)
    width, length = width * fits, length * fits

    ends = width.cumsum(0)
    count = len(ends)
    plan.first.fill_(0)
    plan.first[1 : count + 1] = ends
    plan.first[count + 1 :] = ends[-1]
    for target, values in ((plan.starts, start), (plan.visible, visible)):
        target.fill_(0)
        target[:count] = values * (width > 0)
    plan.tables[:count, : turns.tables.shape[1]] = turns.tables

    owner, place = _owners(ends, n)
    inside = owner < count
    owner = owner.clamp(max=count - 1)
    position = torch.where(inside, start[owner] + place - (ends - width)[owner], 0)
    token = slots.tokens[slot[owner], position].long()
    places[0] = torch.where(inside, torch.where(token < 0, mask_id, token), 0)
    places[1] = position
    page = turns.tables[owner, position // plan.page_size]
    plan.slots.copy_(torch.where(inside, page * plan.page_size + position % plan.page_size, -1))

    bounds = torch.cat([length.new_zeros(1), length.cumsum(0)])
    owner, place = _owners(bounds[1:], masks)
    inside = owner < count
    owner = owner.clamp(max=count - 1)
    position = torch.where(inside, frontier[owner] + place - bounds[owner], 0)
    # With shift, the first position of a block is predicted by the block before, once that is known.
    known = position == frontier[owner] if shift else inside
    masked = inside & (slots.tokens[slot[owner], position] < 0) & (known | (position % block != 0))
    predictor = (ends - width)[owner] + position - shift - start[owner]
    return Rows(
        starts=start.int(),
        stops=(start + width).int(),
        bounds=bounds.int(),
        predictors=torch.where(inside, predictor, 0),
        positions=torch.where(masked, position, -1).int(),
        owner=owner,
    )


def _ranges(slots: Slots, fields: Tensor, block: int, shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each row starts and stops, and up to where it sees: the engine's ``next_row`` for all rows at once."""
    cached, exact, drawn, frontier, _, done = slots.lengths[fields[SLOT]].long().T
    known, policy = fields[KNOWN], fields[POLICY]
    base = torch.maximum(cached, known - shift)
    chunk = torch.where(fields[ELASTIC] > 0, (frontier - base + 1 - shift).maximum(fields[CHUNK]), fields[CHUNK])
    border = frontier // block * block
    clean = ((policy == REFRESH) | (policy == STALE)) & (exact < border)
    start = torch.where(clean, torch.minimum(cached, exact), cached)
    base = torch.where(clean, torch.maximum(base, border - shift), base)
    limit = torch.where(policy == STREAM, fields[CANVAS], border + block)
    stop = torch.minimum(base + chunk, limit)
    stop = torch.where((policy == WHOLE_BLOCK) | ((policy == STALE) & (drawn < limit)), limit, stop)
    visible = torch.where(policy == STALE, limit, stop)
    cut = fields[CUT] >= 0
    stop, visible = (torch.where(cut, fields[CUT], each) for each in (stop, visible))
    return start, torch.where(done > 0, start, stop), visible


def _owners(ends: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For each of ``count`` places the row that it belongs to, and the place itself."""
    place = torch.arange(count, device=ends.device)
    return torch.searchsorted(ends, place, right=True), place
