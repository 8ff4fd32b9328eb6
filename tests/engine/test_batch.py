"""Packing against its definition, row by row."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from optimus_kernels.paged_attention import Room
from optimus_server.engine.batch import needed, offer, pack
from optimus_server.engine.request import Params, Request
from optimus_server.engine.step import Row, Step, candidates

BLOCK, PAGE, MASK, VOCAB = 4, 8, 99, 100


@st.composite
def rows(draw, shift):
    """Rows of requests in any state that decoding can bring about."""
    found = []
    for number in range(draw(st.integers(1, 5))):
        request = Request(str(number), tuple(range(1, draw(st.integers(2, 12)))), Params(max_new_tokens=20),
                          block_size=BLOCK, shift=shift)  # fmt: skip
        ahead = draw(st.lists(st.integers(0, request.canvas - 1), max_size=6))
        request.committed[ahead] = True
        request.tokens[ahead] = 7
        while request.frontier < request.canvas and request.committed[request.frontier]:
            request.frontier += 1
        start = draw(st.integers(0, request.frontier - shift))
        stop = draw(st.integers(start + 1, request.canvas))
        found.append(Row(request, start, stop, stop))
    return tuple(found)


def masks(row):
    """The definition: what the outputs of a row predict, if it is open and hangs on no other mask."""
    request = row.request
    for position in range(row.start + request.shift, min(row.stop + request.shift, request.canvas)):
        first_of_block = request.shift and position % BLOCK == 0
        hangs = first_of_block and position != request.frontier
        if position >= request.frontier and not request.committed[position] and not hangs:
            yield position


@pytest.mark.parametrize("shift", [0, 1])
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_candidates_are_those_of_each_row(shift, data):
    some = data.draw(rows(shift))
    positions, owner = candidates(some)
    expected = [(position, number) for number, row in enumerate(some) for position in masks(row)]
    assert list(zip(positions.tolist(), owner.tolist(), strict=True)) == expected


@pytest.mark.parametrize("shift", [0, 1])
@given(data=st.data(), surplus=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_a_batch_is_its_rows_one_after_the_other(shift, data, surplus):
    some = data.draw(rows(shift))
    tables = tuple([10 * number + page for page in range(6)] for number in range(len(some)))
    step = Step(some, tables, None)
    least = needed(step, PAGE)
    room = Room(*(size + surplus for size in least)) if surplus else None
    batch = pack(step, room, mask_id=MASK, page_size=PAGE)
    found = offer(step, vocab_size=VOCAB)

    places = [(number, position) for number, row in enumerate(some) for position in range(row.start, row.stop)]
    n = len(places)
    tokens = [some[i].request.tokens[p] if some[i].request.committed[p] else MASK for i, p in places]
    assert batch.places[0, :n].tolist() == tokens
    assert batch.places[1, :n].tolist() == [position for _, position in places]
    assert batch.attention.slots[:n].tolist() == [(10 * i + p // PAGE) * PAGE + p % PAGE for i, p in places]
    assert batch.places.shape[1] == len(batch.attention.slots) == n + surplus
    assert (batch.attention.slots[n:] == -1).all()

    expected = [(i, position) for i, row in enumerate(some) for position in masks(row)]
    if not expected:
        assert found is None
        return
    assert found.positions.tolist() == [position for _, position in expected]
    assert [places[k] for k in found.predictors.tolist()] == [(i, p - shift) for i, p in expected]
    assert found.unmask.row.tolist() == [i for i, _ in expected]
    assert np.diff(found.bounds).tolist() == [len(list(masks(row))) for row in some]
    assert found.unmask.edge.tolist() == [p == some[i].stop for i, p in expected]
    assert found.unmask.certain.tolist() == [bool(shift) and p % BLOCK == 0 for i, p in expected]
