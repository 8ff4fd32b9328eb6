import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from optimus_server.engine.elastic.yields import P, YieldModel, long_run, run, rungs
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import Params, Request
from optimus_server.engine.step import candidates
from tests.engine.conftest import commits


def decode(p, chunk, policy="chunk", *, block=32, shift=1, tokens=4000, seed=0):
    """Commits and computed positions per step of a request whose runs go on with probability ``p``."""
    rng = np.random.default_rng(seed)
    params = Params(max_new_tokens=tokens, policy=policy, chunk=chunk)
    request = Request("r", (1,) * block, params, block_size=block, shift=shift)
    request.apply(0, block, commits([]))
    while not request.finished:
        row = next_row(request, 10**6)
        offered = candidates([row])[0]
        length = min(len(offered), rng.geometric(1 - p)) if len(offered) else 0
        request.apply(row.start, row.stop, commits(offered[:length]))
    usage = request.usage()
    return usage.generated_tokens / usage.steps, usage.computed_positions / usage.steps


def learn(model, name, p, masks, steps, rng):
    slot = model.slot(name)
    for _ in range(steps):
        advance = min(masks, int(rng.geometric(1 - p)))
        model.observe(*(np.array([x]) for x in (slot, masks, advance, masks, 8, False)), "chunk")
    return P[model.levels(np.array([slot]))[0]]


def test_the_ladder_of_a_model():
    assert rungs(32, 1) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert rungs(32, 0) == (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    assert rungs(4, 0) == (2, 3, 4, 6, 8)
    assert rungs(5, 1) == (1, 2, 3, 4, 6, 8, 10)
    assert rungs(1, 1) == (1,)


def test_a_run_is_as_long_as_it_is_on_average():
    rng = np.random.default_rng(0)
    for p, masks in ((0.0, 4), (0.5, 1), (0.6, 8), (0.95, 20)):
        drawn = np.minimum(rng.geometric(1 - p, 40_000), masks).mean()
        assert run(p, masks) == pytest.approx(drawn, rel=0.02)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("policy", ["chunk", "refresh", "stream"])
def test_the_long_run_is_what_real_rows_do(policy, shift):
    table = long_run(policy, 32, shift)
    ladder = rungs(32, shift)
    for level in (8, 16):
        for chunk in (ladder[0], 4, 12, 64):
            expected = [found[level, ladder.index(chunk)] for found in table]
            seen = decode(P[level], chunk, policy, shift=shift)
            # A fixed chunk spends a step on pending tokens alone where the controller would widen the row.
            assert seen == pytest.approx(expected, rel=0.12), (policy, shift, P[level], chunk)


def test_chunk_one_of_a_shifted_model_is_autoregressive():
    commits_, computed = long_run("chunk", 32, 1)
    assert commits_[:, 0] == pytest.approx(1)
    assert computed[:, 0] == pytest.approx(1)


@pytest.mark.parametrize("p", [0.3, 0.7, 0.93])
@pytest.mark.parametrize("masks", [3, 8, 32])
def test_the_probability_is_found_whatever_the_window(p, masks):
    found = learn(YieldModel(32, 1), "r", p, masks, 300, np.random.default_rng(1))
    assert found == pytest.approx(p, abs=0.12)


def test_a_new_request_takes_after_the_others():
    model, rng = YieldModel(32, 1), np.random.default_rng(2)
    for number in range(40):
        learn(model, f"r{number}", 0.9, 16, 40, rng)
        model.close(f"r{number}")
    assert P[model.levels(np.array([model.slot("new")]))[0]] > 0.8


def test_single_masks_teach_nothing():
    """A model at chunk 1 must not forget what it knew."""
    model, rng = YieldModel(32, 1), np.random.default_rng(3)
    before = learn(model, "r", 0.9, 16, 200, rng)
    typical = model.typical
    assert learn(model, "r", 0.9, 1, 2000, rng) == before
    assert model.typical == typical


@pytest.mark.parametrize("exploring", [False, True])
def test_what_a_chunk_size_does_differently_is_learned_and_reaches_its_neighbors(exploring):
    """Computed positions from every row, commits from explored blocks: a request's own tell about the request."""
    model = YieldModel(32, 1)
    before = model.table("chunk")
    slot, rung = np.array([model.slot("r")]), model.rungs.index(8)
    for _ in range(2000):
        twice = [2 * table[model.levels(slot), rung] for table in long_run("chunk", 32, 1)]
        model.observe(slot, np.array([4]), *twice, np.array([8]), np.array([exploring]), "chunk")
    grown = [(now / then)[10] for now, then in zip(model.table("chunk"), before, strict=True)]
    for ratio in grown if exploring else grown[1:]:
        assert ratio[rung] > 1.8
        assert 1.2 < ratio[rung + 1] < ratio[rung]
        assert ratio[-1] < 1.2
    if not exploring:
        assert grown[0] == pytest.approx(1)


def test_memory_is_bounded_by_the_live_requests():
    model = YieldModel(32, 1)
    for number in range(10_000):
        model.slot(f"r{number}")
        if number >= 50:
            model.close(f"r{number - 50}")
    assert len(model._advanced) <= 128
    model.close("unknown")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_history_leaves_a_usable_table(data):
    model = YieldModel(8, data.draw(st.integers(0, 1)))
    for _ in range(data.draw(st.integers(0, 30))):
        names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
        slots = np.array([model.slot(name) for name in names])
        size = len(names)
        masks, advance, width, chunks, exploring = (
            np.array(data.draw(st.lists(st.integers(low, high), min_size=size, max_size=size)))
            for low, high in ((1, 40), (0, 40), (1, 40), (1, 20), (0, 1))
        )
        model.observe(slots, masks, advance, width, chunks, exploring > 0, "chunk")
        if data.draw(st.booleans()):
            model.close(names[0])
    for table in model.table("chunk"):
        assert np.isfinite(table).all()
        assert (table > 0).all()
    assert 0 <= model.typical < len(P)
