import pytest

from optimus_server.engine.request import Committed, Finished, Params, Request
from optimus_server.engine.step import Row
from tests.engine.conftest import candidates, commits


def request(prompt, *, new=8, block=4, shift=0, **params):
    ids = tuple(range(100, 100 + prompt))
    return Request("r", ids, Params(max_new_tokens=new, **params), block_size=block, shift=shift)


def commit(request, start, stop, tokens):
    """Apply a row that commits ``tokens``: position -> id."""
    ordered = sorted(tokens)
    return request.apply(start, stop, commits(ordered, [tokens[p] for p in ordered]))


def test_only_the_committed_prefix_is_told():
    r = request(3)
    assert commit(r, 0, 4, {}) == []
    assert commit(r, 3, 8, {4: 1, 6: 2}) == []
    assert commit(r, 3, 8, {3: 5}) == [Committed((5, 1), (-0.5, -0.5), 3)]
    assert commit(r, 3, 8, {5: 6}) == [Committed((6, 2), (-0.5, -0.5), 4)]


def test_an_end_token_counts_once_everything_left_of_it_is_committed():
    r = request(4, stop_ids=frozenset({9}))
    assert commit(r, 4, 8, {6: 9, 7: 1}) == []
    assert not r.finished
    committed, finished = commit(r, 4, 8, {4: 1, 5: 2})
    assert committed.ids == (1, 2, 9)
    assert isinstance(finished, Finished)
    assert finished.reason == "eos_token"
    assert finished.usage.generated_tokens == 3
    assert finished.usage.wasted_tokens == 1


def test_an_end_token_in_the_prompt_is_an_ordinary_token():
    r = Request("r", (9, 9), Params(max_new_tokens=1, stop_ids=frozenset({9})), block_size=4, shift=0)
    committed, finished = commit(r, 0, 4, {2: 9, 3: 1})
    assert (committed.ids, finished.reason) == ((9,), "eos_token")


@pytest.mark.parametrize("new", [1, 3, 4, 5])
def test_the_answer_is_cut_at_max_new_tokens_inside_the_block(new):
    r = request(4, new=new)
    events = commit(r, 0, 8, {4: 1, 5: 2, 6: 3, 7: 4})
    if new == 5:
        events = commit(r, 4, 12, {8: 5, 9: 6})
    assert events[0].ids == ((1, 2, 3, 4, 5)[:new] if new < 5 else (5,))
    assert events[1].reason == "length"
    assert events[1].usage.generated_tokens == new


def test_shifted_rows_offer_the_position_past_their_end():
    r = request(6, shift=1)
    assert candidates([Row(r, 0, 6, 6)])[0].tolist() == [6]
    assert candidates([Row(r, 5, 8, 8)])[0].tolist() == [6, 7]  # 8 hangs on the mask at 7
    r = request(8, shift=1)
    assert candidates([Row(r, 7, 10, 10)])[0].tolist() == [8, 9, 10]  # 7 is known
    assert candidates([Row(r, 0, 4, 4)])[0].tolist() == []


def test_unshifted_rows_offer_their_own_masks():
    r = request(6)
    commit(r, 4, 8, {7: 1})
    assert candidates([Row(r, 4, 8, 8)])[0].tolist() == [6]


def test_cached_follows_what_was_committed_before_the_forward():
    r = request(4, policy="chunk")
    commit(r, 0, 6, {4: 1, 5: 2})
    assert (r.cached, r.exact, r.frontier) == (4, 4, 6)
    commit(r, 4, 7, {6: 3})
    assert (r.cached, r.exact, r.frontier) == (6, 4, 7)


def test_block_policy_caches_whole_blocks_only():
    r = request(6, policy="block")
    commit(r, 0, 8, {6: 1})
    assert (r.cached, r.exact) == (4, 4)
    commit(r, 4, 8, {7: 1})
    assert (r.cached, r.exact) == (4, 4)
    commit(r, 4, 12, {9: 1})
    assert (r.cached, r.exact) == (8, 8)


def test_shifted_requests_keep_their_last_known_token_in_the_row():
    r = request(8, policy="block", shift=1)
    commit(r, 0, 12, {9: 1})
    assert (r.cached, r.exact, r.frontier) == (7, 8, 8)
