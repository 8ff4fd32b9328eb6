import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from optimus_server.engine.elastic.choice import Situation
from optimus_server.engine.elastic.controller import Controller
from optimus_server.engine.elastic.latency import LatencyModel, Profile
from optimus_server.engine.elastic.yields import YieldModel, rungs
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import POLICIES, Commits, Finished, Params, Request
from optimus_server.engine.step import Landed, Turn
from optimus_server.engine.telemetry import REASONS
from tests.engine.conftest import candidates

H100 = Profile((1, 32, 128, 256, 512, 1024, 4096), (6.2e-3, 6.5e-3, 6.8e-3, 8.2e-3, 13.6e-3, 27e-3, 107e-3), 5e-8)


def controller(shift=1, **options):
    options = {"block_size": 32, "prefill_budget": 512} | options
    return Controller(LatencyModel(H100), YieldModel(32, shift), **options)


def situation(count, **changes):
    rows = [
        Request(f"{i}", (1,) * 64, Params(max_new_tokens=400, **changes.pop("params", {})), block_size=32, shift=1)
        for i in range(count)
    ]
    return Situation(
        **{"rows": rows, "joining": 0, "fixed": 0, "fixed_rows": 0, "prefill": 0, "kv_tokens": 64 * count} | changes
    )


def settled(control, case, steps=3):
    for _ in range(steps):
        choice = control.choose(case)
    return choice


@pytest.mark.parametrize("shift", [0, 1])
def test_chunks_shrink_with_the_load_from_one_end_of_the_ladder_to_the_other(shift):
    chosen = [settled(controller(shift), situation(count)).typical for count in (1, 16, 64, 256, 512)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] >= 24
    assert chosen[-1] == rungs(32, shift)[0]


def test_long_contexts_favor_larger_chunks():
    """One read of the KV serves all commits of a step."""
    short, long = (settled(controller(), situation(64, kv_tokens=64 * n)).typical for n in (100, 8000))
    assert long > short


def test_those_who_join_count_before_they_do():
    assert settled(controller(), situation(8, joining=250)).typical < settled(controller(), situation(8)).typical


def test_prompts_to_come_leave_less_room_for_chunks():
    def typical(prompt):
        control = controller()
        for _ in range(200):
            choice = control.choose(situation(16))
            control._prompts.learn(prompt)
        return choice.typical

    assert typical(0) >= 2 * typical(250)


def test_a_target_takes_throughput_back():
    free, tight = controller(), controller(tpot_s=9e-3)
    assert settled(tight, situation(128)).typical != 0
    case = situation(128)
    n, e = settled(free, case), settled(tight, case)
    assert e.reason in ("slo", "hold")
    # 128 rows of one position take 6.8 ms; at chunk sizes that serve more tokens a step takes longer than the target.
    assert max(e.chunks) <= max(n.chunks)


def test_a_target_that_cannot_be_met_is_missed_by_as_little_as_possible():
    choice = settled(controller(tpot_s=1e-6), situation(64))
    assert len(choice.chunks) == 64
    assert choice.prefill >= 32


def test_prefill_gets_what_a_target_leaves_and_never_less_than_a_block():
    roomy = settled(controller(tpot_s=0.1), situation(8, prefill=512)).prefill
    tight = settled(controller(tpot_s=3.6e-3), situation(8, prefill=512)).prefill
    assert 32 <= tight < roomy == 512


def test_an_operator_may_pin_the_chunk_size():
    control = controller()
    control.pinned = 6
    choice = control.choose(situation(3))
    assert (choice.chunks, choice.typical, choice.reason) == ((6, 6, 6), 6, "manual")
    control.pinned = None
    assert control.choose(situation(3)).typical > 6


def test_nothing_to_choose():
    assert controller().choose(situation(0)).reason == "idle"
    assert controller().choose(situation(0, fixed=8, fixed_rows=1)).reason == "manual"


def test_reasons_say_which_way_the_load_went():
    control = controller()
    settled(control, situation(4))

    def next_reason(count):
        return next(r for _ in range(3) if (r := control.choose(situation(count)).reason) != "hold")

    assert next_reason(256) == "load_up"
    assert next_reason(4) == "load_down"
    assert {control.choose(situation(4)).reason for _ in range(50)} == {"hold"}


def test_a_level_is_left_when_staying_has_cost_a_whole_step():
    """By accumulated regret: a better level is taken the sooner, the better it is, and noise never adds up."""
    control = controller()

    def steps(rates):
        for count in range(1, 1000):
            rate = np.array(rates(count))
            if control._move(rate, rate, int(rate.argmax()), 8) != "hold":
                return count
        return None

    assert steps(lambda _: [1.0, 1.08]) == 13
    assert steps(lambda _: [1.012, 1.0]) == 100
    assert steps(lambda _: [1.0, 1.0015]) is None
    assert steps(lambda count: [1.0, 1.01 if count % 8 == 0 else 0.99]) is None


def test_a_level_that_is_better_now_and_worse_then_is_left_alone():
    """Each level has a sum of its own: two that are better in turns do not add up to one that is better."""
    control = controller()
    for count in range(400):
        better = 1 + count % 2
        rate = np.array([1.0, 0.97, 0.97])
        rate[better] = 1.025
        assert control._move(rate, rate, better, 8) == "hold"


def test_a_level_chosen_for_another_load_is_left_sooner():
    def steps(rows):
        control, rate = controller(), np.array([1.0, 1.08])
        control._rows = 100
        return next(n for n in range(1, 100) if control._move(rate, rate, 1, rows) != "hold")

    assert steps(100) == steps(140) == steps(70) == 13
    assert steps(200) < 5
    assert steps(20) == 1


def test_of_many_rows_a_choice_holds_for_some_steps(monkeypatch):
    """Unless others come or go; those who are new take what is typical."""
    control, worked_out = controller(), []
    expect = control._expect
    monkeypatch.setattr(control, "_expect", lambda rows: worked_out.append(len(rows)) or expect(rows))
    for _ in range(17):
        control.choose(situation(256))
    assert worked_out == [256] * 3
    for _ in range(4):
        control.choose(situation(16))
    assert worked_out == [256] * 3 + [16] * 4
    control.choose(situation(256))
    held = control.choose(situation(260))
    assert len(held.chunks) == 260
    assert held.chunks[256:] == (held.typical,) * 4
    assert held.reason == "hold"


def test_steps_in_which_a_choice_held_count_when_it_is_worked_out():
    def steps(since):
        control, rate = controller(), np.array([1.0, 1.08])
        control._since = since
        return next(n for n in range(1, 100) if control._move(rate, rate, 1, 100) != "hold")

    assert steps(1) == 13
    assert steps(4) == 4


class Chaos:
    """A model that commits anything, and a clock that shows anything."""

    def __init__(self, shift, block, data):
        self.config = SimpleNamespace(block_size=block, logit_shift=shift, max_position_embeddings=4096)
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        self.times = data.draw(
            st.lists(
                st.sampled_from([0.0, -5.0, 1e-9, 0.01, 1e12, math.nan, math.inf, -math.inf]), min_size=1, max_size=9
            )
        )
        self.ticks = 0
        self.ahead = data.draw(st.booleans())

    def clock(self):
        self.ticks += 1
        return self.times[self.ticks % len(self.times)]

    def launch(self, step):
        return lambda: self.land(step)

    def land(self, step):
        """Rows as the device would make them now; one that is not known yet sometimes finds no room."""
        ranges, results = [], []
        for turn in step.turns:
            request, row = turn.request, turn.row
            if turn.outlook and not request.finished:
                if request.elastic:
                    request.grant(turn.chunk)
                row = next_row(request, request.canvas)
            waits = turn.outlook and (request.finished or self.rng.random() < 0.1)
            ranges.append((row.start, row.start if waits else row.stop))
            offered = [] if waits or turn.prompt else candidates([row])[0]
            count = int(self.rng.integers(1, len(offered) + 1)) if len(offered) else 0
            chosen = np.sort(self.rng.permutation(offered)[:count]).astype(int)
            valid = self.rng.random() > 0.01
            results.append(
                Commits(chosen, np.ones(count, int), np.full(count, -0.1), valid=valid, offered=len(offered))
            )
        return Landed(ranges, results)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_yields_and_no_clock_ever_break_a_request(data):
    shift, block = data.draw(st.integers(0, 1)), data.draw(st.sampled_from([4, 8, 32]))
    chaos = Chaos(shift, block, data)
    tpot = data.draw(st.sampled_from([None, 1e-6, 0.05]))
    options = EngineOptions(pages=60, page_size=16, max_rows=6, prefill_budget=64, tpot_s=tpot)
    engine = Engine(chaos, options, clock=chaos.clock)
    traces = engine.feed.subscribe(1)
    wanted, told, ended = {}, {}, {}
    for number in range(data.draw(st.integers(1, 10))):
        params = Params(
            max_new_tokens=data.draw(st.integers(1, 90)),
            policy=data.draw(st.sampled_from(POLICIES)),
            chunk=data.draw(st.sampled_from([None, None, 1 + (1 - shift), 5])),
            tpot_s=data.draw(st.sampled_from([None, 0.01])),
        )
        request = Request(f"{number}", (1,) * data.draw(st.integers(1, 90)), params, block_size=block, shift=shift)
        wanted[request.id], told[request.id] = params.max_new_tokens, 0
        engine.add(request)
    for step in range(5000):
        if not engine.busy:
            break
        if step % 17 == 16:
            engine.controller.pinned = data.draw(st.sampled_from([None, 2]))
        if step == 9:
            engine.cancel("0")
        for name, event in engine.step():
            if hasattr(event, "ids"):
                told[name] += len(event.ids)
            else:
                ended[name] = event
        engine.check()
        for trace in traces.drain():
            assert trace.decision.reason in REASONS
            assert all(row.masks or not row.commits for row in trace.rows)
    assert set(ended) == set(wanted)
    assert not any("AttributeError" in getattr(event, "message", "") for event in ended.values())
    for name, event in ended.items():
        if isinstance(event, Finished) and event.reason == "length":
            assert told[name] == wanted[name]


def test_the_rest_of_a_prompt_in_a_row_of_masks_is_no_price_of_its_tokens():
    control = controller()
    decision = SimpleNamespace(positions=131, kv_tokens=131, prefill=131)
    for number in range(50):
        request = Request(f"{number}", (1,) * 128, Params(max_new_tokens=90), block_size=32, shift=1)
        request.grant(4)
        row = next_row(request, 1000)
        assert (row.start, row.stop) == (0, 131)
        found = candidates([row])[0][:2]
        turn = Turn(row, 0, 4, None, prompt=False, fresh=True)
        control.learn(decision, [turn], [Commits(found, found, found * 0.0, valid=True, offered=4)], 0.01)
    _, computed = control.yields.table("chunk")
    rung = control.yields.rungs.index(4)
    assert computed[:, rung].mean() < 4.5
