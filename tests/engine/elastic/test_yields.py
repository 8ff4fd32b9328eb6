import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from optimus_server.engine.elastic.yields import BESIDE, REACH, P, YieldModel, long_run, rungs
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import Params, Request
from tests.engine.conftest import candidates, commits


def decode(p, chunk, policy="chunk", *, block=32, shift=1, tokens=4000, seed=0):
    """Commits and computed positions per step of a request whose runs go on with probability ``p``."""
    rng = np.random.default_rng(seed)
    request = Request("r", (1,) * block, Params(max_new_tokens=tokens, policy=policy), block_size=block, shift=shift)
    request.apply(0, block, commits([]))
    while not request.finished:
        request.grant(chunk)
        row = next_row(request, 10**6)
        offered = candidates([row])[0]
        run = min(len(offered), rng.geometric(1 - p))
        beside = offered[run:][rng.random(len(offered) - run) < BESIDE]
        beside = beside[beside < request.frontier + REACH]
        request.apply(row.start, row.stop, commits(np.concatenate([offered[:run], beside])))
    usage = request.usage()
    return usage.generated_tokens / usage.steps, usage.computed_positions / usage.steps


def learn(model, kinds, chunk, steps, rng):
    """So many requests of each of these probabilities commit as they do in the long run, all at one chunk size."""
    commits_, computed, *_ = long_run("chunk", model.rungs, 32, 1)
    rung = model.rungs.index(chunk)
    levels = [level for level, count in kinds.items() for _ in range(count)]
    slots = np.array([model.slot(f"{number}") for number in range(len(levels))])
    for _ in range(steps):
        count = rng.geometric(1 / commits_[levels, rung]).clip(1, chunk)
        width = computed[levels, rung]
        model.observe(slots, count, 0 * count, 0 * count, width, np.full(len(levels), chunk), "chunk")
    return model.kinds(slots)


def test_the_ladder_of_a_model():
    assert rungs(32, 1) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert rungs(32, 0) == (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert rungs(4, 0) == (2, 3, 4, 6, 8)
    assert rungs(5, 1) == (1, 2, 3, 4, 6, 8, 10)
    assert rungs(1, 1) == (1,)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("policy", ["chunk", "refresh", "stream"])
def test_the_long_run_is_what_real_rows_do(policy, shift):
    ladder = rungs(32, shift)
    table = long_run(policy, ladder, 32, shift)[:2]
    for level in (8, 16):
        for chunk in (ladder[0], 4, 12, 64):
            expected = [found[level, ladder.index(chunk)] for found in table]
            seen = decode(P[level], chunk, policy, shift=shift)
            assert seen == pytest.approx(expected, rel=0.1), (policy, shift, P[level], chunk)


def test_chunk_one_of_a_shifted_model_is_autoregressive():
    commits_, computed, variance, longest = long_run("chunk", rungs(32, 1), 32, 1)
    assert commits_[:, 0] == pytest.approx(1)
    assert computed[:, 0] == pytest.approx(1)
    assert variance[:, 0] == pytest.approx(0)
    assert longest[:, 0] == pytest.approx(1)
    # Whatever a row of half a block commits, none is longer; one of 64 may be the rest of a block and the next.
    assert longest[:, 7] == pytest.approx(16, abs=1)
    assert (longest[:, -1] > computed[:, -1]).all()
    # Of a block that is decoded again and again, what is left is less and less.
    assert (variance[:-1, -1] > 10).all()


@pytest.mark.parametrize("chunk", [4, 16, 64])
def test_requests_that_are_alike_are_taken_for_the_same(chunk):
    """However noisy their few steps: what differs between them is noise, and the prior has learned that."""
    model = YieldModel(32, 1)
    kinds = learn(model, {8: 40}, chunk, 150, np.random.default_rng(1))
    yields = kinds @ long_run("chunk", model.rungs, 32, 1)[0][:, model.rungs.index(chunk)]
    truth = long_run("chunk", model.rungs, 32, 1)[0][8, model.rungs.index(chunk)]
    assert yields.mean() == pytest.approx(truth, rel=0.1)
    assert yields.std() < 0.03 * yields.mean()


def test_two_kinds_of_requests_are_told_apart_in_a_few_steps():
    model, rng = YieldModel(32, 1), np.random.default_rng(2)
    learn(model, {6: 20, 24: 20}, 8, 100, rng)
    for number in range(40):
        model.close(f"{number}")
    new = model.kinds(np.array([model.slot("new")]))[0]
    assert 0.2 < new[:12].sum() < 0.8
    kinds = learn(model, {6: 1, 24: 1}, 8, 6, rng) @ P
    assert kinds[0] < 0.6 < 0.8 < kinds[1]


def test_chunk_one_teaches_nothing_and_forgets_little():
    """All commit one token there: a model past saturation must not forget what it knew."""
    model, rng = YieldModel(32, 1), np.random.default_rng(3)
    learn(model, {18: 8}, 16, 200, rng)
    for number in range(8):
        model.close(f"{number}")
    before = model.common @ P
    learn(model, {18: 8}, 1, 1000, rng)
    assert model.common @ P == pytest.approx(before, abs=0.03)


def test_tokens_behind_an_answers_end_are_no_yield():
    model = YieldModel(32, 1)
    slots, chunk = np.array([model.slot("r")]), np.array([64])
    for _ in range(2000):
        model.observe(slots, np.array([20]), np.array([10]), np.array([0]), np.array([24]), chunk, "chunk")
    assert model.kinds(slots)[0] @ model.table("chunk")[0][:, -1] == pytest.approx(10, rel=0.15)


def test_more_waste_than_yield_leaves_a_usable_table():
    """Tokens may be wasted at another chunk size than they were committed at."""
    model = YieldModel(32, 1)
    slots, chunk = np.array([model.slot("r")]), np.array([1])
    for _ in range(500):
        model.observe(slots, np.array([1]), np.array([30]), np.array([0]), np.array([1]), chunk, "chunk")
    assert (model.table("chunk")[0] > 0).all()


def test_what_another_chunk_size_has_offered_teaches_nothing():
    """Tokens that it left behind, or took ahead, would be counted for the chunk size that comes after it."""
    model = YieldModel(32, 1)
    slots = np.array([model.slot("r")])

    def see(chunk, start, count):
        row = (np.array([value]) for value in (count, 0, start, start + chunk, chunk))
        model.observe(slots, *row, "chunk")
        return model.doubt(slots)[0, model.rungs.index(4)]

    see(16, 0, 3)
    unseen = see(16, 3, 3)
    for start in range(6, 19):
        # The last row of chunk 16 ended at 19.
        assert see(4, start, 2) == pytest.approx(unseen)
    assert see(4, 19, 2) < 0.999 * unseen


def test_memory_is_bounded_by_the_live_requests():
    model = YieldModel(32, 1)
    for number in range(10_000):
        model.slot(f"r{number}")
        if number >= 50:
            model.close(f"r{number - 50}")
    assert len(model._kind) <= 256
    model.close("unknown")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_history_leaves_a_usable_table(data):
    model = YieldModel(8, data.draw(st.integers(0, 1)))
    for _ in range(data.draw(st.integers(0, 30))):
        names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
        slots = np.array([model.slot(name) for name in names])
        size = len(names)
        commits_, wasted, width, chunks = (
            np.array(data.draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))
            for low, high in ((0, 40), (0, 40), (1, 40), (1, 20))
        )
        model.observe(slots, commits_, wasted, 0 * width, width, chunks, "chunk")
        if data.draw(st.booleans()):
            model.close(names[0])
    for table in (*model.table("chunk"), model.doubt(np.array([model.slot("a")])), model.common):
        assert np.isfinite(table).all()
        assert (table > 0).all()
    assert model.common.sum() == pytest.approx(1)
