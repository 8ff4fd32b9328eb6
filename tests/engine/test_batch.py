"""What the device makes of a step's turns, against the policies and the definition of a mask, row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from optimus_kernels.layout import lay_out
from optimus_kernels.paged_attention import AttentionPlan, Room
from optimus_kernels.slots import Slots
from optimus_kernels.unmask import unmask
from optimus_server.engine.batch import needed, pack, span
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import POLICIES, Params, Request
from optimus_server.engine.step import Step, Turn
from tests.engine.conftest import commits, masks

BLOCK, PAGE, MASK, VOCAB = 4, 8, 99, 100


def requests(draw, shift):
    """Requests anywhere in their lives, brought there by rows with random commits."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        params = Params(
            max_new_tokens=draw(st.integers(1, 20)),
            policy=draw(st.sampled_from(POLICIES)),
            chunk=draw(st.integers(1, 2 * BLOCK) | st.none()),
            stop_ids=frozenset({7}),
        )
        prompt = tuple(range(10, 10 + draw(st.integers(1, 12))))
        request = Request(str(number), prompt, params, block_size=BLOCK, shift=shift)
        for _ in range(draw(st.integers(0, 12))):
            advance(request, draw)
        if not request.finished:
            found.append(request)
    return found


def advance(request, draw):
    if request.finished:
        return
    if request.elastic:
        request.grant(draw(st.sampled_from([2, 3, 8])))
    row = next_row(request, 9 if request.prefilling else 0)
    offered = list(masks(row))
    chosen = sorted(draw(st.sets(st.sampled_from(offered), min_size=1))) if offered else []
    request.apply(row.start, row.stop, commits(chosen, [5] * len(chosen)))


def turns(draw, some):
    found = []
    for slot, request in enumerate(reversed(some)):
        chunk = request.chunk
        if request.elastic:
            chunk = draw(st.sampled_from([1, 2, 3, 8]))
            request.grant(chunk)
        row = next_row(request, BLOCK)
        found.append(Turn(row, slot, chunk, None, row.stop <= request.known - request.shift, True))
    return tuple(found)


def device(step, shift):
    """The requests in slots, the step laid out there, and what was sent."""
    batch = pack(step, pages=needed(step, PAGE).pages, vocab_size=VOCAB)
    slots = Slots(batch.arriving.tokens[batch.arriving.slots], batch.arriving.lengths[batch.arriving.slots])
    plan = AttentionPlan.empty(
        Room(len(step.turns), step.positions, 8), block_size=BLOCK, page_size=PAGE, width=9, reach=64, device="cpu"
    )
    places = torch.zeros(2, step.positions, dtype=torch.int64)
    rows = lay_out(slots, batch.turns, places, plan, masks=step.masks, shift=shift, mask_id=MASK)
    return slots, batch, places, plan, rows


@pytest.mark.parametrize("shift", [0, 1])
@given(data=st.data(), surplus=st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_the_device_makes_the_rows_of_the_policies(shift, data, surplus):
    some = turns(data.draw, requests(data.draw, shift))
    if not some:
        return
    tables = tuple([10 * number + page for page in range(8)] for number in range(len(some)))
    rows = [turn.row for turn in some]
    n, m = sum(row.width for row in rows), sum(row.masks for row in rows)
    _, _, places, plan, made = device(Step(some, tables, None, n + surplus, m + surplus), shift)

    assert list(zip(made.starts.tolist(), made.stops.tolist(), strict=True)) == [(r.start, r.stop) for r in rows]
    assert plan.visible.tolist() == [row.visible for row in rows]
    flat = [(number, position) for number, row in enumerate(rows) for position in range(row.start, row.stop)]
    tokens = [rows[i].request.tokens[p] if rows[i].request.committed[p] else MASK for i, p in flat]
    assert places[0, :n].tolist() == tokens
    assert places[1, :n].tolist() == [position for _, position in flat]
    assert plan.slots[:n].tolist() == [(10 * i + p // PAGE) * PAGE + p % PAGE for i, p in flat]
    assert (plan.slots[n:] == -1).all()

    expected = [(i, position) for i, row in enumerate(rows) for position in masks(row)]
    masked = made.positions >= 0
    assert list(zip(made.owner[masked].tolist(), made.positions[masked].tolist(), strict=True)) == expected
    assert [flat[k] for k in made.predictors[masked].tolist()] == [(i, p - shift) for i, p in expected]
    assert made.bounds.diff().tolist() == [row.masks for row in rows]


@pytest.mark.parametrize("shift", [0, 1])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_device_moves_requests_as_the_host_does(shift, data):
    some = turns(data.draw, requests(data.draw, shift))
    if not some:
        return
    n, m = sum(turn.row.width for turn in some), sum(turn.row.masks for turn in some)
    step = Step(some, tuple([list(range(8))] * len(some)), None, n, m)
    slots, batch, _, _, made = device(step, shift)
    token = torch.tensor(data.draw(st.lists(st.sampled_from([5, 6, 7]), min_size=m, max_size=m)), dtype=torch.int64)
    confidence = torch.tensor(data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.95]), min_size=m, max_size=m)))
    chosen = unmask(
        slots, batch.turns, made, token, confidence, None, block_size=BLOCK, shift=shift, span=span(step)
    )  # fmt: skip
    bounds = made.bounds.tolist()
    for number, turn in enumerate(some):
        request, mine = turn.request, slice(bounds[number], bounds[number + 1])
        taken = chosen[mine]
        assert taken.any() == bool(list(masks(turn.row)))
        positions, ids = made.positions[mine][taken].tolist(), token[mine][taken].tolist()
        request.apply(turn.row.start, turn.row.stop, commits(positions, ids))
        cached, exact, drawn, frontier, steps, done = slots.lengths[turn.slot].tolist()
        assert (cached, exact, drawn) == (request.cached, request.exact, request.drawn)
        assert (frontier, steps, bool(done)) == (request.frontier, request.steps, request.finished)
        expected = np.where(request.committed, request.tokens, -1)
        assert slots.tokens[turn.slot, : request.canvas].tolist() == expected.tolist()


def test_where_there_is_no_room_the_rows_behind_have_none_either():
    params = Params(max_new_tokens=9, chunk=3)
    some = [Request(str(i), (1,) * 5, params, block_size=BLOCK, shift=0) for i in range(4)]
    chosen = tuple(Turn(next_row(r, 99), i, 3, None, False, True) for i, r in enumerate(some))
    widths = [turn.row.width for turn in chosen]
    tables = tuple([[0] * 8] * 4)
    for positions in range(sum(widths) + 1):
        slots, batch, _, plan, made = device(Step(chosen, tables, None, positions, 99), 0)
        fit = int((np.cumsum(widths) <= positions).sum())
        assert (made.stops - made.starts).tolist() == widths[:fit] + [0] * (4 - fit)
        assert plan.first.tolist() == [0, *np.cumsum(widths)[:fit]] + [sum(widths[:fit])] * (4 - fit)
        before = slots.lengths.clone()
        nothing = torch.zeros(99)
        unmask(slots, batch.turns, made, nothing.long(), nothing, None, block_size=BLOCK, shift=0, span=9)
        assert torch.equal(before[fit:], slots.lengths[fit:])
