import itertools

import numpy as np
import pytest
import torch

from optimus_server.engine.request import Committed, Failed, Finished
from optimus_server.errors import InvalidRequest
from tests.engine.conftest import finish
from tests.naive import naive_logits


def test_what_can_never_fit_is_refused_before_it_is_queued(tiny):
    engine = tiny().engine(pages=4, page_size=8)
    with pytest.raises(InvalidRequest, match=r"must be <= 32\. Given: 40") as error:
        engine.add(tiny().request("r", [1] * 30, max_new_tokens=4))
    assert error.value.param == "max_new_tokens"
    engine.add(tiny().request("r", [1] * 30, max_new_tokens=2))
    engine = tiny().engine(pages=1000)
    with pytest.raises(InvalidRequest, match="must be <= 512"):
        engine.add(tiny().request("r", [1] * 510, max_new_tokens=4))


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("steps", range(8))
def test_a_cancelled_request_is_gone_at_once_wherever_it_was(tiny, steps, ahead):
    engine = tiny().engine(prefill_budget=8, max_rows=1, ahead=ahead)
    engine.add(tiny().request("gone", range(1, 30), max_new_tokens=16, stop_ids=()))
    engine.add(tiny().request("queued", [4, 5, 6], max_new_tokens=8, stop_ids=()))
    for _ in range(steps):
        engine.step()
    engine.cancel("gone")
    engine.cancel("gone")
    engine.cancel("never seen")
    engine.check()
    assert [request.id for request in engine.scheduler.running] == []
    told = engine.step()
    assert [event.reason for name, event in told if name == "gone"] == ["cancelled"]
    assert engine.load().running == 1
    while engine.busy:
        engine.step()
    assert engine.pool.available == 64


def test_a_failing_forward_fails_its_own_requests_only(tiny, monkeypatch, caplog):
    model = tiny()
    engine = model.engine(max_rows=1)
    requests = [model.request(str(i), [1, 2, 3], max_new_tokens=8, stop_ids=()) for i in range(2)]
    real = engine.runner.launch
    monkeypatch.setattr(engine.runner, "launch", lambda step: 1 / 0)
    for request in requests:
        engine.add(request)
    [(name, event)] = engine.step()
    assert name == "0"
    assert isinstance(event, Failed)
    assert "ZeroDivisionError" in event.message
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.setattr(engine.runner, "launch", real)
    events = []
    while engine.busy:
        events += engine.step()
    assert [event.reason for name, event in events if isinstance(event, Finished)] == ["length"]
    engine.check()
    assert engine.pool.available == 64


@pytest.mark.parametrize("prompt", [3, 40])
def test_a_row_that_cannot_be_applied_fails_its_own_request_only(tiny, monkeypatch, caplog, prompt):
    model = tiny()
    engine = model.engine(prefill_budget=16)
    good, bad = (model.request(name, [1] * prompt, max_new_tokens=8, stop_ids=()) for name in ("good", "bad"))
    monkeypatch.setattr(bad, "apply", lambda *result: 1 / 0)
    events = []
    for request in (good, bad):
        engine.add(request)
    while engine.busy:
        events += engine.step()
    ends = {name: event for name, event in events if isinstance(event, Failed | Finished)}
    assert isinstance(ends["bad"], Failed)
    assert "ZeroDivisionError" in ends["bad"].message
    assert ends["good"].reason == "length"
    engine.check()
    assert engine.pool.available == 64


def test_no_request_depends_on_what_is_learned(tiny, monkeypatch, caplog):
    model = tiny()
    engine = model.engine()
    monkeypatch.setattr(engine.controller, "learn", lambda *seen: 1 / 0)
    engine.add(model.request("r", [1, 2, 3], max_new_tokens=8, stop_ids=()))
    events = []
    while engine.busy:
        events += engine.step()
    assert events[-1][1].reason == "length"
    assert "was not learned from" in caplog.text


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_outputs_that_are_no_numbers_fail_the_request_they_belong_to(tiny, monkeypatch, temperature):
    model = tiny()
    engine = model.engine()
    options = {"max_new_tokens": 8, "stop_ids": (), "temperature": temperature}
    good, bad = (model.request(name, [1, 2, 3], **options) for name in ("good", "bad"))
    engine.add(good)
    engine.add(bad)
    logits = engine.runner.net.logits
    monkeypatch.setattr(
        engine.runner.net,
        "logits",
        lambda hidden: torch.cat([logits(hidden[:5]), hidden.new_full((5, 73), torch.nan)]),
    )
    told = dict(engine.step())
    assert isinstance(told["bad"], Failed)
    assert "not a number" in told["bad"].message
    monkeypatch.setattr(engine.runner.net, "logits", logits)
    while engine.busy:
        assert all(name == "good" for name, _ in engine.step())
    assert engine.pool.available == 64


def watch(engine, monkeypatch, launched, landed):
    """Call ``launched`` and ``landed`` with the number and the step, of every step of an engine."""
    real, numbers = engine.runner.launch, itertools.count()

    def launch(step):
        number = next(numbers)
        launched(number, step)
        wait = real(step)
        return lambda: (landed(number, step), wait())[1]

    monkeypatch.setattr(engine.runner, "launch", launch)


def test_a_step_is_launched_before_the_one_before_is_over(tiny, monkeypatch):
    model = tiny()
    engine = model.engine(ahead=True)
    told = []
    watch(engine, monkeypatch, lambda n, _: told.append(f"launch {n}"), lambda n, _: told.append(f"land {n}"))
    finish(engine, [model.request("r", [1, 2, 3], max_new_tokens=8, stop_ids=())])
    steps = sum(line.startswith("launch") for line in told)
    assert steps > 2
    order = [line for number in range(1, steps) for line in (f"launch {number}", f"land {number - 1}")]
    assert told == ["launch 0", *order, f"land {steps - 1}"]


def test_a_request_that_must_be_known_lets_every_step_be_awaited(tiny, monkeypatch):
    model = tiny()
    engine = model.engine(ahead=True)
    pending = []

    def launched(number, step):
        assert not (pending and any(not turn.request.params.foreseeable for turn in step.turns))
        pending.append(number)

    watch(engine, monkeypatch, launched, lambda number, _: pending.remove(number))
    options = {"max_new_tokens": 12, "stop_ids": ()}
    requests = [
        model.request("plain", [1, 2, 3], **options),
        model.request("penalised", [4, 5], repetition_penalty=1.3, **options),
        model.request("late", [4, 5], temperature=0.9, **options),
    ]
    answers, _ = finish(engine, requests, [0, 2, 3])
    monkeypatch.undo()
    for request in requests:
        again = model.request(request.id, request.tokens[: request.prompt_len], **options | {
            "repetition_penalty": request.params.repetition_penalty, "temperature": request.params.temperature,
        })  # fmt: skip
        alone, _ = finish(model.engine(), [again])
        assert alone[request.id] == answers[request.id]


def test_who_found_no_room_has_it_before_the_others(tiny):
    """Rooms for one row at a time: three requests take turns, and none waits for the ends of others."""
    model = tiny()
    engine = model.engine(ahead=True)
    known = engine.scheduler.forecast.room
    engine.scheduler.forecast.room = lambda turns: (
        known(turns)
        if not turns or all(turn.exact for turn in turns)
        else (max(turn.row.width for turn in turns), sum(turn.row.width for turn in turns))
    )
    traces = engine.feed.subscribe(1000)
    options = {"max_new_tokens": 40, "stop_ids": (), "policy": "block", "threshold": 1.0}
    requests = [model.request(str(i), [1 + i] * 8, **options) for i in range(3)]
    finish(engine, requests)
    steps = [{row.request_id for row in trace.rows} for trace in traces.drain()]
    whole = [step for step in steps[2:] if step][:60]
    for name in "012":
        seen = [number for number, step in enumerate(whole) if name in step]
        assert max(np.diff(seen)) <= 6


def test_a_failing_step_fails_its_requests_and_the_one_behind_it_goes_on(tiny, monkeypatch, caplog):
    model = tiny()
    engine = model.engine(ahead=True)
    watch(engine, monkeypatch, lambda *_: None, lambda number, _: 1 / (number - 2))
    requests = [model.request(str(i), [1, 2, 3], max_new_tokens=30, stop_ids=()) for i in range(3)]
    answers, ends = finish(engine, requests, [0, 1, 6])
    assert [type(ends[str(i)]) for i in range(3)] == [Failed, Failed, Finished]
    assert len(answers["2"]) == 30
    assert "ZeroDivisionError" in caplog.text


def test_logprobs_are_the_confidence_at_commit(tiny):
    model = tiny()
    engine = model.engine()
    engine.add(model.request("r", [1, 2, 3], max_new_tokens=5, unmask="sequential", stop_ids=(), policy="block"))
    [(_, committed)] = engine.step()
    assert isinstance(committed, Committed)
    logits = naive_logits(model.reference, [1, 2, 3] + [72] * 5, 8)[3].clone()
    logits[72] = -torch.inf
    assert committed.logprobs[0] == pytest.approx(float(logits.log_softmax(-1).max()))
    assert committed.step == 1


def test_minimum_pool_many_requests_all_finish(tiny):
    model = tiny("sdar_shift")
    rng = np.random.default_rng(0)
    requests = [
        model.request(str(i), rng.integers(0, 70, rng.integers(1, 20)), max_new_tokens=int(rng.integers(1, 20)))
        for i in range(60)
    ]
    _, ends = finish(model.engine(pages=5, page_size=8, prefill_budget=8), requests)
    assert len(ends) == 60


def test_a_fast_row_takes_as_many_steps_beside_a_slow_one_as_alone(tiny):
    model = tiny()
    options = {"max_new_tokens": 24, "stop_ids": (), "policy": "block"}
    fast = {"threshold": 0.0, **options}
    slow = {"threshold": 1.0, **options}
    _, alone = finish(model.engine(), [model.request("fast", [5] * 8, **fast)])
    _, together = finish(
        model.engine(), [model.request("slow", [6] * 8, **slow), model.request("fast", [5] * 8, **fast)]
    )
    assert alone["fast"].usage.steps == together["fast"].usage.steps == 3
    assert together["slow"].usage.steps == 24


def test_only_masks_enter_the_head(tiny, monkeypatch):
    model = tiny()
    engine = model.engine(prefill_budget=64)
    seen = []
    logits = engine.runner.net.logits
    monkeypatch.setattr(engine.runner.net, "logits", lambda hidden: seen.append(len(hidden)) or logits(hidden))
    engine.add(model.request("r", [1] * 44, max_new_tokens=20, chunk=8, policy="chunk", stop_ids=()))
    engine.step()
    assert seen == [4]


def test_a_preempted_request_does_not_count_its_own_pages_as_a_prefix_hit(tiny):
    model = tiny()
    options = {"max_new_tokens": 40, "stop_ids": (), "policy": "block"}
    rng = np.random.default_rng(3)
    requests = [model.request(str(i), rng.integers(0, 70, 9), **options) for i in range(3)]
    _, ends = finish(model.engine(pages=12, page_size=8), requests)
    assert sum(request.preemptions for request in requests) > 0
    assert [end.usage.prefix_hit_tokens for end in ends.values()] == [0, 0, 0]
