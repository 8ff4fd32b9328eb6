"""Paged attention in Triton: flash decoding over ragged rows, with the query heads of a KV head packed into one tile.

A program takes one tile of a row's queries, one KV head and one part of the row's keys. Its tile has ``GROUP`` rows a
query, one for each query head that shares the KV head::

    GROUP 2, BLOCK_M 8      tile row   0 1 2 3 4 5 6 7
                            query      0 0 1 1 2 2 3 3
                            head       0 1 0 1 0 1 0 1

The grid depends on upper bounds alone, never on lengths, so a CUDA graph can replay it. Keys that every query of the
tile sees need no mask; only the blocks that the tile itself lies in are compared key by key.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels.overlap import follow, overlap
from optimus_kernels.paged_attention.plan import AttentionPlan
from optimus_kernels.paged_attention.tile import Tile, default_splits, default_tile

_LOG2_E = 1.4426950408889634


def paged_attention_triton(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    plan: AttentionPlan,
    *,
    tile: Tile | None = None,
    splits: int | None = None,
) -> Tensor:
    """See ``paged_attention``; positions that belong to no row get no output."""
    n, heads, dim = q.shape
    page_size, kv_heads = k_pages.shape[1:3]
    group, rows = heads // kv_heads, len(plan.starts)
    dim_pad = max(16, triton.next_power_of_2(dim))
    tile = tile or default_tile(dim_pad, q.element_size(), q.device)
    # queries a tile holds
    block_q = max(1, tile.m // group)
    block_m = max(tile.m, triton.next_power_of_2(group))
    # Two bounds on the number of tiles: every row is as wide as the widest, or every row has one partial tile.
    per_row = -(-plan.width // block_q)
    even = rows * per_row <= n // block_q + rows
    tiles = rows * per_row if even else n // block_q + rows
    if splits is None:
        splits = default_splits(tiles * kv_heads, plan.reach, q.device)

    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    parts = out if splits == 1 else q.new_empty((splits, n, heads, dim), dtype=torch.float32)
    # the logarithm (base 2) of each part's share of the softmax
    weights = None if splits == 1 else q.new_empty((splits, n, heads), dtype=torch.float32)
    _attend[(kv_heads, tiles, splits)](
        q,
        k_pages,
        v_pages,
        parts,
        weights,
        plan.first,
        plan.starts,
        plan.visible,
        plan.tables,
        _LOG2_E / dim**0.5,
        rows,
        n,
        splits,
        per_row,
        plan.block_size,
        plan.tables.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        DIM_PAD=dim_pad,
        PAGE=page_size,
        ROWS=0 if even else max(128, triton.next_power_of_2(rows)),
        BLOCK_Q=block_q,
        BLOCK_M=block_m,
        BLOCK_N=tile.n,
        STAGES=tile.stages,
        num_warps=tile.warps,
        **overlap(q.device),
    )
    if weights is not None:
        block = 8
        _merge[(triton.cdiv(n * heads, block),)](
            parts,
            weights,
            out,
            n * heads,
            splits,
            DIM=dim,
            DIM_PAD=triton.next_power_of_2(dim),
            BLOCK=block,
            num_warps=4,
            **overlap(q.device),
        )
    return out


# Numbers and addresses that change from step to step must not select another compilation.
@triton.jit(
    do_not_specialize=["rows", "n", "splits", "per_row", "table_stride"],
    do_not_specialize_on_alignment=["first", "starts", "visible", "tables"],
)
def _attend(
    q,
    k_pages,
    v_pages,
    parts,
    weights,
    first,
    starts,
    visible,
    tables,
    scale,
    rows,
    n,
    splits,
    per_row,
    block_size,
    table_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One tile of queries, one KV head, one part of the keys."""
    follow(OVERLAP)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    STRIDE: tl.constexpr = KV_HEADS * DIM
    # Where steps do not cross pages, one page id serves all keys of a step.
    WHOLE: tl.constexpr = PAGE % BLOCK_N == 0
    # Programs start in order, and a row's later tiles see more keys: they go first, or the last ones run alone.
    head, tile, split = tl.program_id(0), tl.num_programs(1) - 1 - tl.program_id(1), tl.program_id(2)
    row, tile_in_row = _locate(first, tile, rows, per_row, ROWS, BLOCK_Q)
    base = tl.load(first + row)
    width = tl.load(first + row + 1) - base
    first_query = tile_in_row * BLOCK_Q
    if first_query >= width:
        return

    start, end = tl.load(starts + row), tl.load(visible + row)
    # [BLOCK_M]: each tile row's query in its row of the step, and its head
    m = tl.arange(0, BLOCK_M)
    query = first_query + m // GROUP
    live = (m < BLOCK_Q * GROUP) & (query < width)
    place = (base + query).to(tl.int64)
    heads = head * GROUP + m % GROUP
    # keys that each query sees, that all of them see, and that any of them sees
    limits = tl.minimum(end, ((start + query) // block_size + 1) * block_size)
    seen_by_all = tl.minimum(end, ((start + first_query) // block_size + 1) * block_size)
    last_query = tl.minimum(first_query + BLOCK_Q, width) - 1
    seen_by_any = tl.minimum(end, ((start + last_query) // block_size + 1) * block_size)

    share = tl.cdiv(tl.cdiv(seen_by_any, splits), BLOCK_N) * BLOCK_N
    low = split * share
    high = tl.minimum(low + share, seen_by_any)

    d = tl.arange(0, DIM_PAD)
    # [BLOCK_M, DIM_PAD], in q and in the output
    target = (place * HEADS + heads)[:, None] * DIM + d[None, :]
    wanted = live[:, None] & (d[None, :] < DIM)
    q_tile = tl.load(q + target, mask=wanted, other=0.0)
    k_head, v_head = k_pages + head * DIM, v_pages + head * DIM
    table = tables + row.to(tl.int64) * table_stride

    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, DIM_PAD], tl.float32)
    # The page ids of a step are loaded one step ahead: the addresses of its keys would wait for them.
    lane = tl.arange(0, BLOCK_N)
    page = _page_ids(table, low, high, lane, PAGE, WHOLE)
    for begin in tl.range(low, high, BLOCK_N, num_stages=STAGES):
        key = begin + lane
        if WHOLE:
            slot = page.to(tl.int64) * PAGE + begin % PAGE
            offsets = slot * STRIDE + (lane[:, None] * STRIDE + d[None, :])
        else:
            slots = page.to(tl.int64) * PAGE + key % PAGE
            offsets = slots[:, None] * STRIDE + d[None, :]
        page = _page_ids(table, begin + BLOCK_N, high, lane, PAGE, WHOLE)
        # Scores hide whatever lies past the last key; in V it must not be there, since 0 * NaN is NaN.
        if DIM == DIM_PAD:
            k = tl.load(k_head + offsets)
            v = tl.load(v_head + offsets, mask=(key < high)[:, None], other=0.0)
        else:
            k = tl.load(k_head + offsets, mask=d[None, :] < DIM, other=0.0)
            v = tl.load(v_head + offsets, mask=(key < high)[:, None] & (d[None, :] < DIM), other=0.0)

        scores = tl.dot(q_tile, tl.trans(k), input_precision="ieee")
        if begin + BLOCK_N > seen_by_all:
            scores = tl.where(key[None, :] < limits[:, None], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1) * scale)
        # a query that has seen no key yet keeps -inf, and has nothing to rescale
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(scores * scale - anchor[:, None])
        shrink = tl.exp2(peak - anchor)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        peak = higher

    # a part whose keys a query does not see keeps a peak of -inf and weighs nothing
    total = tl.where(total == 0.0, 1.0, total)
    acc = acc / total[:, None]
    if weights is not None:
        part = split.to(tl.int64) * n * HEADS
        tl.store(weights + part + place * HEADS + heads, peak + tl.log2(total), mask=live)
        target += part * DIM
    tl.store(parts + target, acc.to(parts.dtype.element_ty), mask=wanted)


@triton.jit
def _locate(first, tile, rows, per_row, ROWS: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Tile -> its row and its place there, which may be past the row's end.

    Either every row has ``per_row`` tiles (then ROWS is 0), or row r owns the tiles from ``first[r] // BLOCK_Q + r``
    on: these numbers grow by at least the tiles that each row needs (vLLM's trick), and one load finds the row
    without a search.
    """
    if ROWS == 0:
        row, local = tile // per_row, tile % per_row
    else:
        r = tl.arange(0, ROWS)
        begins = tl.load(first + r, mask=r < rows, other=0) // BLOCK_Q + r
        row = tl.sum(((begins <= tile) & (r < rows)).to(tl.int32), 0) - 1
        local = tile - (tl.load(first + row) // BLOCK_Q + row)
    return row, local


@triton.jit
def _page_ids(table, begin, high, lane, PAGE: tl.constexpr, WHOLE: tl.constexpr):
    if WHOLE:
        return tl.load(table + begin // PAGE, mask=begin < high, other=0)
    else:
        key = begin + lane
        return tl.load(table + key // PAGE, mask=key < high, other=0)


@triton.jit(do_not_specialize=["lines", "splits"])
def _merge(
    parts,
    weights,
    out,
    lines,
    splits,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Weigh the parts of each (position, head) line by their shares of the softmax."""
    follow(OVERLAP)
    line = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = line < lines
    d = tl.arange(0, DIM_PAD)
    peak = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    acc = tl.zeros([BLOCK, DIM_PAD], tl.float32)
    for split in range(splits):
        offset = split * lines.to(tl.int64) + line
        weight = tl.load(weights + offset, mask=inside, other=float("-inf"))
        wanted = inside & (weight != float("-inf"))
        part = tl.load(parts + offset[:, None] * DIM + d[None, :], mask=wanted[:, None] & (d[None, :] < DIM), other=0.0)
        higher = tl.maximum(peak, weight)
        anchor = tl.where(higher == float("-inf"), 0.0, higher)
        shrink, share = tl.exp2(peak - anchor), tl.exp2(weight - anchor)
        acc = acc * shrink[:, None] + part * share[:, None]
        total = total * shrink + share
        peak = higher
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        out + line[:, None] * DIM + d[None, :],
        acc.to(out.dtype.element_ty),
        mask=inside[:, None] & (d[None, :] < DIM),
    )
