"""The layout of a step in two Triton kernels: one program makes the rows, many write what stands in them."""

import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels import slots as codes
from optimus_kernels.paged_attention import AttentionPlan
from optimus_kernels.slots import Rows, Slots, Turns

# Rows of ``Turns.fields``, columns of ``Slots.lengths``, policies.
_SLOT, _CHUNK, _ELASTIC, _CUT = (tl.constexpr(code) for code in (codes.SLOT, codes.CHUNK, codes.ELASTIC, codes.CUT))
_KNOWN, _CANVAS, _POLICY = (tl.constexpr(code) for code in (codes.KNOWN, codes.CANVAS, codes.POLICY))
_LENGTHS = tl.constexpr(codes.DONE + 1)
_CACHED, _EXACT, _DRAWN = (tl.constexpr(code) for code in (codes.CACHED, codes.EXACT, codes.DRAWN))
_FRONTIER, _DONE = tl.constexpr(codes.FRONTIER), tl.constexpr(codes.DONE)
_BLOCK, _REFRESH, _STALE = (tl.constexpr(code) for code in (codes.WHOLE_BLOCK, codes.REFRESH, codes.STALE))
_IN_BLOCK, _STREAM = tl.constexpr(codes.IN_BLOCK), tl.constexpr(codes.STREAM)

_LEAST_ROWS = 256
"""Rows that one program can lay out at least. Fewer take as long, and each size is compiled when it is first met."""
_PLACES = 64
_AT_ONCE = 64
"""Rows that a program compares its places with at once."""


def lay_out_triton(
    slots: Slots, turns: Turns, places: Tensor, plan: AttentionPlan, *, masks: int, shift: int, mask_id: int
) -> Rows:
    """See ``lay_out``."""
    count, n = turns.fields.shape[1], places.shape[1]
    most = len(plan.starts)
    # starts, stops and bounds side by side: the host wants them in one copy
    rows = turns.fields.new_empty(3 * count + 1)
    wide = places.new_empty(2, masks)
    positions = turns.fields.new_empty(masks)
    result = Rows(rows[:count], rows[count : 2 * count], rows[2 * count :], wide[0], positions, wide[1])
    plan.tables[:count, : turns.tables.shape[1]].copy_(turns.tables)
    _rows[(1,)](
        slots.lengths, turns.fields, plan.first, plan.starts, plan.visible, result.starts, result.stops, result.bounds,
        count, most, n, masks, shift, BLOCK=plan.block_size, ROWS=max(_LEAST_ROWS, triton.next_power_of_2(most)),
        num_warps=4,
    )  # fmt: skip
    _places[(triton.cdiv(n, _PLACES) + triton.cdiv(masks, _PLACES),)](
        slots.tokens, slots.lengths, turns.fields, turns.tables, plan.first, result.starts, result.bounds,
        places, plan.slots, result.predictors, result.positions, result.owner,
        count, n, masks, shift, mask_id, slots.tokens.stride(0), turns.tables.stride(0), triton.cdiv(n, _PLACES),
        BLOCK=plan.block_size, PAGE=plan.page_size, PLACES=_PLACES, ROWS=_AT_ONCE, num_warps=4,
    )  # fmt: skip
    return result


# Numbers and addresses that change from step to step must not select another compilation.
@triton.jit(
    do_not_specialize=["count", "most", "n", "masks", "shift"],
    do_not_specialize_on_alignment=["fields", "first", "plan_starts", "visibles", "starts", "stops", "bounds"],
)
def _rows(
    lengths,
    fields,
    first,
    plan_starts,
    visibles,
    starts,
    stops,
    bounds,
    count,
    most,
    n,
    masks,
    shift,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """All rows at once: where they start and stop, and which find room."""
    row = tl.arange(0, ROWS)
    real = row < count
    slot = tl.load(fields + _SLOT * count + row, mask=real, other=0)
    chunk = tl.load(fields + _CHUNK * count + row, mask=real, other=1)
    elastic = tl.load(fields + _ELASTIC * count + row, mask=real, other=0)
    cut = tl.load(fields + _CUT * count + row, mask=real, other=-1)
    known = tl.load(fields + _KNOWN * count + row, mask=real, other=0)
    canvas = tl.load(fields + _CANVAS * count + row, mask=real, other=0)
    policy = tl.load(fields + _POLICY * count + row, mask=real, other=_IN_BLOCK)
    state = lengths + slot * _LENGTHS
    cached = tl.load(state + _CACHED, mask=real, other=0)
    exact = tl.load(state + _EXACT, mask=real, other=0)
    drawn = tl.load(state + _DRAWN, mask=real, other=0)
    frontier = tl.load(state + _FRONTIER, mask=real, other=0)
    done = tl.load(state + _DONE, mask=real, other=1)

    base = tl.maximum(cached, known - shift)
    chunk = tl.where(elastic > 0, tl.maximum(chunk, frontier - base + 1 - shift), chunk)
    border = frontier // BLOCK * BLOCK
    clean = ((policy == _REFRESH) | (policy == _STALE)) & (exact < border)
    start = tl.where(clean, tl.minimum(cached, exact), cached)
    base = tl.where(clean, tl.maximum(base, border - shift), base)
    limit = tl.where(policy == _STREAM, canvas, border + BLOCK)
    stop = tl.minimum(base + chunk, limit)
    stop = tl.where((policy == _BLOCK) | ((policy == _STALE) & (drawn < limit)), limit, stop)
    visible = tl.where(policy == _STALE, limit, stop)
    stop = tl.where(cut >= 0, cut, stop)
    visible = tl.where(cut >= 0, cut, visible)

    width = tl.where(done > 0, 0, stop - start)
    length = tl.where(width > 0, tl.maximum(tl.minimum(stop + shift, canvas) - frontier, 0), 0)
    fits = (tl.cumsum(width, 0) <= n) & (tl.cumsum(length, 0) <= masks)
    width = tl.where(fits, width, 0)
    ends = tl.cumsum(width, 0)
    masked = tl.cumsum(tl.where(fits, length, 0), 0)
    tl.store(first, 0)
    tl.store(first + 1 + row, ends, mask=row < most)
    tl.store(plan_starts + row, tl.where(width > 0, start, 0), mask=row < most)
    tl.store(visibles + row, tl.where(width > 0, visible, 0), mask=row < most)
    tl.store(starts + row, start, mask=real)
    tl.store(stops + row, start + width, mask=real)
    tl.store(bounds, 0)
    tl.store(bounds + 1 + row, masked, mask=real)


@triton.jit(
    do_not_specialize=["count", "n", "masks", "shift", "mask_id", "stride", "pages", "programs"],
    do_not_specialize_on_alignment=[
        "fields", "tables", "first", "starts", "bounds", "places", "kv_slots", "predictors", "positions", "owners",
    ],
)  # fmt: skip
def _places(
    tokens,
    lengths,
    fields,
    tables,
    first,
    starts,
    bounds,
    places,
    kv_slots,
    predictors,
    positions,
    owners,
    count,
    n,
    masks,
    shift,
    mask_id,
    stride,
    pages,
    programs,
    BLOCK: tl.constexpr,
    PAGE: tl.constexpr,
    PLACES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Some of the step's positions, or some of its masks."""
    program = tl.program_id(0)
    if program < programs:
        place = program * PLACES + tl.arange(0, PLACES)
        owner = _owner(first, count, place, PLACES, ROWS)
        inside = (place < n) & (owner < count)
        slot = tl.load(fields + _SLOT * count + owner, mask=inside, other=0).to(tl.int64)
        position = tl.load(starts + owner, mask=inside, other=0) + place - tl.load(first + owner, mask=inside, other=0)
        position = tl.where(inside, position, 0)
        token = tl.load(tokens + slot * stride + position, mask=inside, other=0)
        page = tl.load(tables + owner.to(tl.int64) * pages + position // PAGE, mask=inside, other=0)
        tl.store(places + place, tl.where(token < 0, mask_id, token).to(tl.int64), mask=place < n)
        tl.store(places + n + place, position.to(tl.int64), mask=place < n)
        tl.store(kv_slots + place, tl.where(inside, page * PAGE + position % PAGE, -1), mask=place < n)
    else:
        place = (program - programs) * PLACES + tl.arange(0, PLACES)
        owner = _owner(bounds, count, place, PLACES, ROWS)
        inside = (place < masks) & (owner < count)
        slot = tl.load(fields + _SLOT * count + owner, mask=inside, other=0).to(tl.int64)
        frontier = tl.load(lengths + slot * _LENGTHS + _FRONTIER, mask=inside, other=0)
        position = frontier + place - tl.load(bounds + owner, mask=inside, other=0)
        token = tl.load(tokens + slot * stride + position, mask=inside, other=0)
        known = (shift == 0) | (position % BLOCK != 0) | (position == frontier)
        origin = tl.load(first + owner, mask=inside, other=0) - tl.load(starts + owner, mask=inside, other=0)
        predictor = tl.where(inside, origin + position - shift, 0)
        tl.store(predictors + place, predictor.to(tl.int64), mask=place < masks)
        masked = inside & (token < 0) & known
        tl.store(positions + place, tl.where(masked, position, -1), mask=place < masks)
        tl.store(owners + place, tl.minimum(owner, count - 1).to(tl.int64), mask=place < masks)


@triton.jit
def _owner(ends, count, place, PLACES: tl.constexpr, ROWS: tl.constexpr):
    """The row that each place belongs to: how many rows end at or before it; ``ends`` begins with a 0."""
    owner = tl.zeros([PLACES], tl.int32)
    for begin in range(0, count, ROWS):
        row = begin + tl.arange(0, ROWS)
        end = tl.load(ends + 1 + row, mask=row < count, other=2147483647)
        owner += tl.sum((end[None, :] <= place[:, None]).to(tl.int32), 1)
    return owner
