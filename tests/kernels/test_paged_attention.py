"""Paged attention against the formula, row by row, over random rows, page sizes and page orders.

Slots that the step must not read hold NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from optimus_kernels.bench.check import agrees, errors
from optimus_kernels.paged_attention import AttentionPlan, Room, paged_attention, plan_attention
from optimus_kernels.paged_attention.reference import paged_attention_reference
from optimus_kernels.paged_attention.tile import Tile, default_splits
from tests.kernels.conftest import DEVICE, DTYPES, ON_GPU

pytest.importorskip("triton")
from optimus_kernels.paged_attention.kernel import paged_attention_triton

Attention = Callable[[Tensor, Tensor, Tensor, AttentionPlan], Tensor]
REFERENCE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class Case:
    rows: list[tuple[int, int, int]]
    """(start, stop, visible) of each."""
    block_size: int
    page_size: int
    heads: tuple[int, int] = (4, 2)
    dim: int = 8
    dtype: torch.dtype = torch.float64
    seed: int = 0


def dense(q: Tensor, k: Tensor, v: Tensor, start: int, visible: int, block_size: int) -> Tensor:
    """The formula: q [w, Hq, D] at positions from ``start``, k and v [visible, Hkv, D] -> [w, Hq, D]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    queries, keys = torch.arange(start, start + len(q)), torch.arange(visible)
    seen = keys[None, :] // block_size <= queries[:, None] // block_size
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


def outputs(case: Case, attention: Attention, device: str, room: Room | None = None) -> tuple[Tensor, Tensor]:
    """What ``attention`` says, and what the formula does, in float64."""
    generator = torch.Generator().manual_seed(case.seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(case.dtype)

    q_heads, kv_heads = case.heads
    needed = [-(-visible // case.page_size) for _, _, visible in case.rows]
    pages = sum(needed) + 3
    order = torch.randperm(pages, generator=generator).tolist()
    tables = [[order.pop() for _ in range(count)] for count in needed]
    shape = (pages, case.page_size, kv_heads, case.dim)
    k_pages, v_pages = (torch.full(shape, torch.nan, dtype=case.dtype) for _ in "kv")
    starts, stops, visibles = map(list, zip(*case.rows, strict=True))
    q = random(sum(stops) - sum(starts), q_heads, case.dim)

    expected, first = [], 0
    for (start, stop, visible), table in zip(case.rows, tables, strict=True):
        key, value = random(visible, kv_heads, case.dim), random(visible, kv_heads, case.dim)
        slots = (torch.tensor(table)[:, None] * case.page_size + torch.arange(case.page_size)).flatten()[:visible]
        k_pages.flatten(0, 1)[slots], v_pages.flatten(0, 1)[slots] = key, value
        here = q[first : first + stop - start]
        expected.append(dense(here.double(), key.double(), value.double(), start, visible, case.block_size))
        first += stop - start

    plan = plan_attention(
        starts, stops, visibles, tables, block_size=case.block_size, page_size=case.page_size, device=device, room=room
    )
    out = attention(q.to(device), k_pages.to(device), v_pages.to(device), plan)
    assert out.shape == q.shape
    return out, torch.cat(expected).to(device)


def check_reference(case: Case) -> None:
    out, expected = outputs(case, paged_attention, "cpu")
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=REFERENCE_TOLERANCE[case.dtype])


def check_kernel(case: Case, tile: Tile, splits: int) -> None:
    def attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: AttentionPlan) -> Tensor:
        return paged_attention_triton(q, k_pages, v_pages, plan, tile=tile, splits=splits)

    out, expected = outputs(case, attention, DEVICE)
    assert agrees(out, expected), errors(out, expected)


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...], dim: int) -> Case:
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
        dim=dim,
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=80, deadline=None)
@given(cases((torch.float64, torch.float32), dim=8))
def test_reference_equals_the_formula(case: Case) -> None:
    check_reference(case)


# On a GPU every new page size and number of heads is compiled, in the interpreter every program is slow.
@settings(max_examples=40 if ON_GPU else 10, deadline=None)
@given(cases(tuple(DTYPES), dim=16), st.sampled_from([16, 32]), st.sampled_from([1, 2, 5]))
def test_kernel_equals_the_formula(case: Case, n: int, splits: int) -> None:
    check_kernel(case, Tile(16, n, 2, 2), splits)


SERVING = {
    "one token": [(0, 1, 1)],
    "one block": [(300, 332, 332)],
    "decode": [(299 + i, 300 + i, 300 + i) for i in range(16)],
    "equal rows": [(288, 296, 296)] * 16,
    "mixed lengths": [(0, 70, 70), (1023, 1025, 1025), (33, 34, 64)],
}


@pytest.mark.parametrize("rows", SERVING.values(), ids=SERVING)
@pytest.mark.parametrize("block_size", [1, 32])
def test_shapes_of_serving(rows: list[tuple[int, int, int]], block_size: int) -> None:
    check_reference(Case(rows, block_size, page_size=16, heads=(4, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "dim", "page_size", "tile", "splits"),
    [
        ((8, 2), 64, 64, Tile(64, 64, 4, 2), 1),
        ((5, 1), 80, 32, Tile(16, 32, 1, 3), 3),
        ((7, 1), 96, 256, Tile(64, 64, 4, 2), 2),
        ((8, 1), 128, 128, Tile(128, 64, 8, 2), 1),
        ((2, 2), 256, 16, Tile(16, 64, 4, 2), 2),
    ],
    ids=["64", "80, odd group", "96, odd group", "128", "256"],
)
def test_head_dimensions_pages_and_tiles(heads, dim, page_size, tile, splits, dtype) -> None:
    rows = [(0, 37, 37), (130, 138, 138), (64, 72, 96), (200, 201, 201)]
    check_kernel(Case(rows, 32, page_size, heads, dim, dtype), tile, splits)


@pytest.mark.skipif(not ON_GPU, reason="too slow in the interpreter")
@pytest.mark.parametrize(
    ("dtype", "dim"), [(torch.float16, 128), (torch.bfloat16, 128), (torch.bfloat16, 256), (torch.float32, 128)]
)
@pytest.mark.parametrize("rows", SERVING.values(), ids=SERVING)
def test_gpu_shapes_of_serving_with_default_tiles(rows, dtype, dim) -> None:
    for block_size in (1, 32):
        out, expected = outputs(Case(rows, block_size, 32, (32, 8), dim, dtype), paged_attention, DEVICE)
        assert agrees(out, expected), errors(out, expected)


@pytest.mark.parametrize("attention", [paged_attention_triton, paged_attention_reference])
def test_surplus_rows_and_positions_change_nothing(attention: Attention) -> None:
    """The same step in the larger buffers of a CUDA graph."""

    def in_larger_buffers(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: AttentionPlan) -> Tensor:
        larger = torch.cat([q, q.new_full((len(plan.slots) - len(q), *q.shape[1:]), torch.nan)])
        return attention(larger, k_pages, v_pages, plan)[: len(q)]

    rows = [(5, 9, 9), (0, 20, 20), (40, 41, 44)]
    # In the last case rows of unequal width just fill the room of equal ones.
    for some, surplus in ((rows, 5), (rows[:1], 4), ([(0, 3, 3), (8, 12, 12)], 1)):
        room = Room(len(some) + 3, sum(stop - start for start, stop, _ in some) + surplus, 12)
        case = Case(some, 4, 8, dim=16, dtype=torch.float32)
        out, expected = outputs(case, in_larger_buffers, DEVICE, room)
        assert agrees(out, expected), errors(out, expected)


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
def test_gpu_graph_replays_with_other_lengths() -> None:
    """Captured once, a step is replayed with whatever rows its buffers hold."""
    rows = [
        [(60, 68, 68), (0, 8, 8), (500, 504, 504)],
        [(992, 1000, 1000), (300, 301, 301), (16, 24, 32)],
        [(31, 33, 33), (7, 8, 8), (0, 1, 1)],
    ]
    steps = []
    for seed, rows_of_step in enumerate(rows):

        def keep(*arguments):
            steps.append(arguments)
            return paged_attention(*arguments)

        case = Case(rows_of_step, 32, 32, (8, 2), 128, torch.bfloat16, seed)
        _, expected = outputs(case, keep, DEVICE, Room(4, 24, 32))
        steps[-1] += (expected,)
    pages = max(len(step[1]) for step in steps)
    q = torch.zeros(24, 8, 128, device=DEVICE, dtype=torch.bfloat16)
    k, v = (torch.zeros(pages, 32, 2, 128, device=DEVICE, dtype=torch.bfloat16) for _ in "kv")
    # a step's plan is copied into the one that was recorded
    static = plan_attention([0], [1], [1], [[0]], block_size=32, page_size=32, device=DEVICE, room=Room(4, 24, 32))
    paged_attention(q, k, v, static)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = paged_attention(q, k, v, static)
    for step_q, step_k, step_v, plan, expected in steps:
        q[: len(step_q)], k[: len(step_k)], v[: len(step_v)] = step_q, step_k, step_v
        static.packed.copy_(plan.packed)
        out.fill_(torch.nan)
        graph.replay()
        assert agrees(out[: len(step_q)], expected), errors(out[: len(step_q)], expected)


def test_splits_fill_the_card_but_leave_no_crumbs() -> None:
    cpu = torch.device("cpu")
    assert default_splits(1000, 100_000, cpu) == 1
    assert default_splits(1, 200, cpu) == 1
    assert default_splits(1, 100_000, cpu) > 1


def test_one_row_that_sees_everything_needs_no_mask_and_no_gather_of_queries() -> None:
    plan = plan_attention([64], [96], [96], [[5, 0, 9]], block_size=32, page_size=32, device="cpu")
    [group] = plan.padded.groups
    assert (group.mask, group.queries, plan.padded.restore) == (None, None, None)
    assert plan.slots.tolist() == list(range(9 * 32, 10 * 32))


def test_long_rows_are_not_padded_to_longer_ones() -> None:
    lengths = [100, 400, 5000]
    tables = [list(range(50))] * 3
    plan = plan_attention([n - 1 for n in lengths], lengths, lengths, tables, block_size=1, page_size=100, device="cpu")
    assert sorted(group.span for group in plan.padded.groups) == [400, 5000]


def test_a_plan_is_a_few_numbers_a_row() -> None:
    plan = plan_attention(
        [4, 30], [9, 31], [9, 40], [[2, 7, 3], [1, 0, 5, 6]], block_size=4, page_size=10, device="cpu"
    )
    assert plan.first.tolist() == [0, 5, 6]
    assert plan.starts.tolist() == [4, 30]
    assert plan.visible.tolist() == [9, 40]
    assert plan.tables.tolist() == [[2, 7, 3, 0], [1, 0, 5, 6]]
    assert plan.slots.tolist() == [24, 25, 26, 27, 28, 60]
    assert (plan.width, plan.reach) == (5, 40)


def test_room_is_filled_with_rows_that_have_no_positions() -> None:
    plan = plan_attention([4], [6], [6], [[2]], block_size=4, page_size=10, device="cpu", room=Room(3, 4, 2))
    assert plan.first.tolist() == [0, 2, 2, 2]
    assert (plan.starts.tolist(), plan.visible.tolist()) == ([4, 0, 0], [6, 0, 0])
    assert plan.tables.tolist() == [[2, 0], [0, 0], [0, 0]]
    assert plan.slots.tolist() == [24, 25, -1, -1]
    assert (plan.width, plan.reach) == (4, 20)
    for small in (Room(0, 4, 2), Room(3, 1, 2), Room(3, 4, 0)):
        with pytest.raises(ValueError, match="does not fit"):
            plan_attention([4], [6], [6], [[2]], block_size=4, page_size=10, device="cpu", room=small)


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
