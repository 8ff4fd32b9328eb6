"""Every policy, driven by random commits without a model: lengths, widths, borders and progress."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from optimus_server.engine.policy import next_row, outlook, row_after
from optimus_server.engine.request import POLICIES, Params, Request
from tests.engine.conftest import candidates, commits

HUGE = 10**9


def make(policy, chunk, *, prompt=70, new=40, block=32, shift=0):
    params = Params(max_new_tokens=new, policy=policy, chunk=chunk)
    return Request("r", (1,) * prompt, params, block_size=block, shift=shift)


def run(request, rng, budget=HUGE, restart=-1):
    """Decode with random commits; yields each row before it is applied. ``restart`` is a step to preempt before."""
    for step in itertools.count():
        if request.finished:
            return
        if step == restart:
            request.restart(0)
        row = next_row(request, budget)
        assert row is not None
        offered = candidates([row])[0]
        yield row, offered
        keep = rng.random(len(offered)) < rng.random()
        if len(offered) and not keep.any():
            keep[rng.integers(len(offered))] = True
        chosen = offered[keep]
        request.apply(row.start, row.stop, commits(chosen, [7] * len(chosen)))


@pytest.mark.parametrize(
    ("policy", "shift", "expected"),
    [
        ("block", 0, (64, 96)),
        ("chunk", 0, (64, 78)),
        ("refresh", 0, (64, 78)),
        ("stale", 0, (64, 96)),
        ("stream", 0, (64, 78)),
        ("chunk", 1, (64, 77)),
    ],
)
def test_the_first_row_of_masks_carries_the_prompts_tail(policy, shift, expected):
    request = make(policy, 8, shift=shift)
    prefill = next_row(request, 64)
    assert (prefill.start, prefill.stop) == (0, 64)
    request.apply(prefill.start, prefill.stop, commits([]))
    row = next_row(request, 0)
    assert (row.start, row.stop) == expected


def test_the_clean_pass_rides_in_the_next_blocks_first_row():
    request = make("block", 1, prompt=32, new=64)
    rows = [row for row, _ in run(request, np.random.default_rng(0))]
    widths = {row.stop - row.start for row in rows}
    assert widths == {32, 64}
    assert next(row.start for row in rows if row.stop == 96) == 32


def test_refresh_recomputes_each_finished_block_with_the_next_rows_masks():
    request = make("refresh", 8, prompt=32, new=96)
    rows = [(row.start, row.stop) for row, _ in run(request, np.random.default_rng(1))]
    assert (32, 72) in rows
    assert (64, 104) in rows
    assert request.exact == 96


def test_stale_draws_a_block_once_and_keeps_it_visible():
    request = make("stale", 4, prompt=32, new=32)
    rows = [row for row, _ in run(request, np.random.default_rng(2))]
    assert [row.stop for row in rows].count(64) >= 1
    assert rows[0].stop == 64
    assert all(row.visible == 64 for row in rows)
    assert all(row.width <= 4 for row in rows[1:])


def test_chunk_one_of_a_shifted_model_computes_each_token_once():
    request = make("chunk", 1, prompt=70, new=40, shift=1)
    rows = [row for row, _ in run(request, np.random.default_rng(3), budget=32)]
    usage = request.usage()
    assert usage.computed_positions == usage.generated_tokens == usage.steps == 40
    assert all(row.width == 1 for row in rows if row.start >= 70)


@given(
    policy=st.sampled_from(POLICIES),
    chunk=st.integers(1, 20),
    prompt=st.integers(1, 40),
    new=st.integers(1, 40),
    block=st.sampled_from([1, 2, 4, 8]),
    shift=st.integers(0, 1),
    budget=st.integers(8, 40),
    restart=st.integers(0, 12),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_any_request_ends_and_every_row_is_legal(policy, chunk, prompt, new, block, shift, budget, restart, seed):
    request = make(policy, chunk, prompt=prompt, new=new, block=block, shift=shift)
    lengths = (0, 0)
    for count, (row, offered) in enumerate(run(request, np.random.default_rng(seed), budget, restart)):
        if count == restart:
            lengths = (0, request.frontier)
        assert count < 4 * (prompt + new) + 8
        assert 0 <= row.start < row.stop <= row.visible <= request.canvas
        assert row.start <= request.cached
        assert not request.committed[offered].any()
        if request.prefilling:
            assert row.stop % block == 0 or not row.stop < request.known - shift
            assert row.width <= budget or len(offered)
        if len(offered):
            # the row's own masks are all it predicts, and the leftmost one is among them
            assert offered[0] == request.frontier
            assert row.start + shift <= offered[0]
            assert offered[-1] < row.stop + shift
            if policy != "stream":
                assert offered[-1] // block == request.frontier // block
        if policy == "chunk" and not request.prefilling and request.cached >= request.known - shift:
            assert row.width <= chunk
        assert lengths <= (request.cached, request.frontier)
        lengths = (request.cached, request.frontier)
    assert request.usage().generated_tokens == new


def test_a_cut_prefill_row_offers_nothing():
    for shift in (0, 1):
        request = make("chunk", 8, prompt=64, shift=shift)
        row = next_row(request, 40)
        assert (row.start, row.stop) == (0, 32)
        assert len(candidates([row])[0]) == 0
        assert next_row(request, 31) is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shift", [0, 1])
def test_the_row_after_one_under_way_is_as_it_was_expected(policy, shift):
    rng = np.random.default_rng(shift)
    stayed = left = 0
    for _ in range(60):
        request = make(policy, 8, prompt=int(rng.integers(1, 50)), block=8, shift=shift)
        under_way = None
        for row, _ in run(request, rng):
            if under_way:
                longest, expected, begin, widths = under_way
                assert longest.start <= row.start
                assert row.stop <= longest.stop
                assert row.visible <= longest.visible
                assert row.width == widths[request.frontier]
                assert row.width <= expected.longest
                if request.frontier >= (begin // 8 + 1) * 8 and policy != "stream":
                    assert expected.places == 8 - begin % 8
                    left += expected.leave == row.width
                elif not shift or request.frontier > begin:
                    stayed += expected.stay == row.width
            # Chunk sizes vary from step to step, and the row under way may find no room.
            chunk = int(rng.integers(1, 17))
            longest, expected = outlook(row, chunk)
            # One that ends a prompt was known, so it has found room.
            prompt = (request.known - shift) // 8 * 8
            assert prompt <= longest.start <= max(row.start, prompt)
            assert row.stop <= longest.stop
            widths = {frontier: row_after(row, chunk, frontier).width for frontier in range(request.canvas + 1)}
            under_way = longest, expected, request.frontier, widths
            request.chunk = chunk
            # If the row under way finds no room, it comes again, with that chunk size.
            assert row.start < prompt or next_row(request, HUGE).width <= expected.longest
    assert stayed
    assert left or policy == "stream"
