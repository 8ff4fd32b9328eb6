"""The scheduler without a model: order, budget, preemption and patience, under random commits."""

import numpy as np
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from optimus_server.engine.blocks import BlockPool
from optimus_server.engine.elastic.controller import Controller
from optimus_server.engine.elastic.latency import LatencyModel, Profile
from optimus_server.engine.elastic.yields import YieldModel
from optimus_server.engine.request import POLICIES, Params, Request
from optimus_server.engine.scheduler import PATIENCE, Scheduler
from tests.engine.conftest import candidates, commits

BLOCK = 4


def make(name, prompt=10, new=10, **params):
    ids = tuple(int(x) for x in np.random.default_rng(prompt).integers(0, 50, prompt))
    params.setdefault("chunk", 16)
    return Request(name, ids, Params(max_new_tokens=new, **params), block_size=BLOCK, shift=0)


def scheduler(pages=64, max_rows=8, prefill_budget=32):
    latency, yields = LatencyModel(Profile.unmeasured()), YieldModel(BLOCK, 0)
    controller = Controller(latency, yields, block_size=BLOCK, prefill_budget=prefill_budget)
    return Scheduler(BlockPool(pages, BLOCK, BLOCK), controller, max_rows=max_rows)


def apply(sched, step, rng):
    """Commit something in every row; requests that end leave."""
    for row in step.rows:
        offered = candidates([row])[0]
        count = min(len(offered), int(rng.integers(1, 4)))
        chosen = np.sort(rng.permutation(offered)[:count])
        row.request.apply(row.start, row.stop, commits(chosen))
        sched.publish(row.request)
        if row.request.finished:
            sched.remove(row.request)


def names(step):
    return [row.request.id for row in step.rows]


def test_rows_of_masks_come_before_prefill_and_the_budget_cuts_prompts():
    sched = scheduler(prefill_budget=16)
    rng = np.random.default_rng(0)
    sched.add(make("short", 6, 20))
    apply(sched, sched.schedule(), rng)
    sched.add(make("long", 60))
    sched.add(make("next", 60))
    widths = []
    for _ in range(4):
        step = sched.schedule()
        assert "short" in names(step)
        widths.append(sum(row.width for row in step.rows if row.request.id != "short"))
        apply(sched, step, rng)
    assert widths[:3] == [16, 16, 16]


def test_an_arrival_is_in_the_next_step():
    sched = scheduler()
    rng = np.random.default_rng(0)
    sched.add(make("a", 20, 40))
    for _ in range(3):
        apply(sched, sched.schedule(), rng)
    sched.add(make("b", 20, 40))
    assert names(sched.schedule()) == ["a", "b"]


def test_a_long_prompt_takes_as_many_steps_as_its_budget_says():
    sched = scheduler(pages=1100, prefill_budget=512)
    request = make("long", 4000)
    sched.add(request)
    rng = np.random.default_rng(0)
    steps = 0
    while request.prefilling:
        apply(sched, sched.schedule(), rng)
        steps += 1
    assert steps == -(-4000 // 512)


def test_who_cannot_begin_yet_waits_and_finds_its_prompt_in_the_cache():
    """Of many that come at once with one prompt, who is let in before any of it is computed computes it again."""
    sched, rng = scheduler(pages=400, prefill_budget=34), np.random.default_rng(0)
    for number in range(6):
        sched.add(make(str(number), 64, 4))
    step = sched.schedule()
    assert names(step) == ["0"]
    assert len(sched.running) == 1
    computed = 0
    while sched.running or sched.waiting:
        computed += sum(row.width for row in step.rows)
        apply(sched, step, rng)
        sched.check()
        step = sched.schedule()
    # The first one and the second, which begins with what is left of a step's budget; not six times 64.
    assert computed < 3 * 64 + 6 * 24


def test_the_youngest_is_preempted_and_keeps_its_tokens():
    sched = scheduler(pages=16, max_rows=8)
    rng = np.random.default_rng(0)
    old, young = make("old", 9, 40, chunk=4), make("young", 10, 40, chunk=4)
    sched.add(old)
    sched.add(young)
    while not young.preemptions:
        before = young.tokens[: young.frontier].copy()
        apply(sched, sched.schedule(), rng)
        sched.check()
    assert not old.preemptions
    assert sched.waiting[0] is young
    while not old.finished:
        apply(sched, sched.schedule(), rng)
    apply(sched, sched.schedule(), rng)
    assert (young.tokens[: len(before)] == before).all()
    assert young.known >= len(before)


def test_small_requests_pass_a_large_one_a_bounded_number_of_times():
    sched = scheduler(pages=24, max_rows=4)
    rng = np.random.default_rng(0)
    sched.add(make("running", 4, 60))
    apply(sched, sched.schedule(), rng)
    sched.add(make("large", 70, 8))
    passed = 0
    for count in range(400):
        if not sched.waiting or sched.waiting[0].id != "large":
            break
        sched.add(make(f"small {count}", 3, 3))
        before = {request.id for request in sched.running}
        step = sched.schedule()
        passed += len({request.id for request in sched.running} - before - {"large"})
        apply(sched, step, rng)
        sched.check()
    assert 0 < passed <= PATIENCE
    assert any(request.id == "large" for request in sched.running)


class Machine(RuleBasedStateMachine):
    """Requests arrive, decode, are cancelled; pages never get lost and everything ends."""

    def __init__(self):
        super().__init__()
        self.sched = scheduler(pages=16, max_rows=4, prefill_budget=8)
        self.rng = np.random.default_rng(0)
        self.live = []

    @rule(
        prompt=st.integers(1, 30),
        new=st.integers(1, 30),
        policy=st.sampled_from(POLICIES),
        chunk=st.integers(1, 8),
    )
    def arrive(self, prompt, new, policy, chunk):
        request = make(f"{len(self.live)}", prompt, new, policy=policy, chunk=chunk)
        self.live.append(request)
        self.sched.add(request)

    @precondition(lambda self: any(not request.finished for request in self.live))
    @rule()
    def step(self):
        step = self.sched.schedule()
        assert step.rows
        assert len({row.request.id for row in step.rows}) == len(step.rows)
        for row, table in zip(step.rows, step.tables, strict=True):
            assert len(table) * BLOCK >= row.visible
        apply(self.sched, step, self.rng)

    @precondition(lambda self: any(not request.finished for request in self.live))
    @rule(data=st.data())
    def cancel(self, data):
        request = data.draw(st.sampled_from([request for request in self.live if not request.finished]))
        request.finished = True
        self.sched.remove(request)

    @invariant()
    def accounted(self):
        self.sched.check()

    def teardown(self):
        for _ in range(2000):
            if all(request.finished for request in self.live):
                break
            self.step()
        assert all(request.finished for request in self.live)
        assert self.sched.pool.available == 16


TestScheduler = Machine.TestCase
TestScheduler.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("max_rows", [1, 3])
def test_no_more_than_max_rows_run(max_rows):
    sched = scheduler(max_rows=max_rows)
    for index in range(5):
        sched.add(make(str(index)))
    assert len(sched.schedule().rows) == max_rows
