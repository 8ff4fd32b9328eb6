"""Paged attention against the formula, row by row, over random rows, page sizes and page orders.

Slots that the step must not read hold NaN.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from optimus_kernels.paged_attention import paged_attention, plan_attention, write_kv

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
DIM = 8


@dataclass(frozen=True)
class Case:
    rows: list[tuple[int, int, int]]
    """(start, stop, visible) of each."""
    block_size: int
    page_size: int
    heads: tuple[int, int] = (4, 2)
    dtype: torch.dtype = torch.float64
    seed: int = 0


def dense(q: Tensor, k: Tensor, v: Tensor, start: int, visible: int, block_size: int) -> Tensor:
    """The formula: q [w, Hq, D] at positions from ``start``, k and v [visible, Hkv, D] -> [w, Hq, D]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    queries, keys = torch.arange(start, start + len(q)), torch.arange(visible)
    seen = keys[None, :] // block_size <= queries[:, None] // block_size
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def check(case: Case) -> None:
    """Write all keys of all rows in one step, overwrite those of [start, stop) in the next, and compare."""
    generator = torch.Generator().manual_seed(case.seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(case.dtype)

    q_heads, kv_heads = case.heads
    needed = [-(-visible // case.page_size) for _, _, visible in case.rows]
    pages = sum(needed) + 3
    order = torch.randperm(pages, generator=generator).tolist()
    tables = [[order.pop() for _ in range(count)] for count in needed]
    k_pages, v_pages = (torch.full((pages, case.page_size, kv_heads, DIM), torch.nan, dtype=case.dtype) for _ in "kv")
    starts, stops, visibles = map(list, zip(*case.rows, strict=True))
    layout = {"block_size": case.block_size, "page_size": case.page_size, "device": "cpu"}

    keys, values = ([random(visible, kv_heads, DIM) for visible in visibles] for _ in "kv")
    everything = plan_attention([0] * len(starts), visibles, visibles, tables, **layout)
    write_kv(torch.cat(keys), torch.cat(values), k_pages, v_pages, everything)

    plan = plan_attention(starts, stops, visibles, tables, **layout)
    q = random(len(plan.slots), q_heads, DIM)
    new_k, new_v = (random(len(plan.slots), kv_heads, DIM) for _ in "kv")
    write_kv(new_k, new_v, k_pages, v_pages, plan)
    out = paged_attention(q, k_pages, v_pages, plan)

    assert out.shape == q.shape
    first = 0
    for (start, stop, visible), key, value in zip(case.rows, keys, values, strict=True):
        here = slice(first, first + stop - start)
        key[start:stop], value[start:stop] = new_k[here], new_v[here]
        expected = dense(q[here], key, value, start, visible, case.block_size)
        torch.testing.assert_close(out[here], expected, rtol=0, atol=TOLERANCE[case.dtype])
        first = here.stop


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, 40))
        stop = start + draw(st.integers(1, 20))
        rows.append((start, stop, stop + draw(st.sampled_from([0, 0, 1, 9]))))
    return Case(
        rows,
        block_size=draw(st.sampled_from([1, 3, 4, 8, 32])),
        page_size=draw(st.sampled_from([1, 3, 8, 16])),
        heads=draw(st.sampled_from([(4, 2), (4, 1), (3, 3)])),
        dtype=draw(st.sampled_from(list(TOLERANCE))),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=80, deadline=None)
@given(cases())
def test_equals_the_formula(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 1, 1)],
        [(300, 332, 332)],
        [(299 + i, 300 + i, 300 + i) for i in range(16)],
        [(288, 296, 296)] * 16,
        [(0, 70, 70), (1023, 1025, 1025), (33, 34, 64)],
    ],
    ids=["one token", "one block", "decode", "equal rows", "mixed lengths"],
)
@pytest.mark.parametrize("block_size", [1, 32])
def test_shapes_of_serving(rows: list[tuple[int, int, int]], block_size: int) -> None:
    check(Case(rows, block_size, page_size=16, heads=(4, 1)))


def test_one_row_that_sees_everything_needs_no_mask_and_no_gather_of_queries() -> None:
    plan = plan_attention([64], [96], [96], [[5, 0, 9]], block_size=32, page_size=32, device="cpu")
    [group] = plan.groups
    assert (group.mask, group.queries, plan.restore) == (None, None, None)
    assert plan.slots.tolist() == list(range(9 * 32, 10 * 32))


def test_long_rows_are_not_padded_to_longer_ones() -> None:
    lengths = [100, 400, 5000]
    tables = [list(range(50))] * 3
    plan = plan_attention([n - 1 for n in lengths], lengths, lengths, tables, block_size=1, page_size=100, device="cpu")
    assert sorted(group.span for group in plan.groups) == [400, 5000]


@pytest.mark.parametrize(
    ("row", "pages", "message"),
    [
        ((3, 3, 3), 1, "0 <= start < stop <= visible, got 3, 3, 3"),
        ((0, 4, 3), 1, "got 0, 4, 3"),
        ((-1, 4, 4), 1, "got -1, 4, 4"),
        ((0, 4, 9), 1, "1 pages of 8 cannot hold 9 visible positions"),
    ],
)
def test_refuses_impossible_rows(row: tuple[int, int, int], pages: int, message: str) -> None:
    start, stop, visible = row
    with pytest.raises(ValueError, match=message):
        plan_attention([start], [stop], [visible], [[0] * pages], block_size=4, page_size=8, device="cpu")


def test_refuses_a_step_without_rows() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        plan_attention([], [], [], [], block_size=4, page_size=8, device="cpu")
