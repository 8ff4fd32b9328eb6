from itertools import islice

import pytest

from optimus_server.bench.asked import Asked, evenly
from optimus_server.bench.closed import Round, Window, _Loop, measure
from optimus_server.bench.workload import Workload
from optimus_server.demo import MODELS
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.runner import Runner
from optimus_server.models.loader import load_model
from optimus_server.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def loaded():
    model, tokenizer = load_model(MODELS / "demo", device="cpu"), Tokenizer.load(MODELS / "demo")
    runner = Runner(model, pages=200, page_size=32)
    asked = [Asked.of(one, tokenizer) for one in islice(Workload(tasks=("json",)).questions(tokenizer), 24)]
    return runner, tokenizer, asked


def engine_of(runner, batch):
    options = EngineOptions(pages=runner.pages, page_size=32, max_rows=batch, prefill_budget=512, share_prefix=False)
    return Engine(runner, options)


def windowed(loaded, window, batch=4, chunk=32, engine=None):
    runner, tokenizer, asked = loaded
    return measure(engine or engine_of(runner, batch), runner, tokenizer, asked, window, "chunk", chunk)


def test_a_window_lasts_until_enough_answers_ended(loaded):
    one = windowed(loaded, Window(warm_up=2, answers=40, seconds=0, most=60))
    assert one.judged >= 40
    assert one.right >= 0.9 * one.judged
    assert one.sound
    assert 2 < one.tpf < 32
    assert one.slowest_ms >= one.step_ms


def test_a_window_lasts_as_many_seconds_as_are_wanted(loaded):
    assert windowed(loaded, Window(warm_up=2, answers=1, seconds=0.5, most=60)).seconds >= 0.5
    assert windowed(loaded, Window(warm_up=2, answers=10**6, seconds=0, most=0.3)).seconds < 1


def test_each_step_that_is_counted_is_of_a_full_batch(loaded):
    runner, _, _ = loaded
    engine = engine_of(runner, 3)
    running, real = [], engine.scheduler.schedule

    def schedule():
        step = real()
        running.append(len(step.turns))
        return step

    engine.scheduler.schedule = schedule
    one = windowed(loaded, Window(warm_up=5, answers=20, seconds=0, most=60), engine=engine)
    # Only the step that tells of what was cancelled at the end has none.
    assert set(running[5:-1]) == {3}
    assert len(running) >= one.steps + 5
    assert not engine.busy


def test_warm_up_lasts_until_the_first_prompts_are_computed(loaded):
    runner, tokenizer, _ = loaded
    long = [Asked.of(q, tokenizer) for q in islice(Workload(tasks=("json",), context=600).questions(tokenizer), 4)]
    engine = engine_of(runner, 4)
    computing, real = [], engine.scheduler.schedule

    def schedule():
        step = real()
        computing.append({turn.request.id for turn in step.turns if turn.request.prefilling})
        return step

    engine.scheduler.schedule = schedule
    one = measure(engine, runner, tokenizer, long, Window(0, 1, 0, 60), "chunk", 32)
    first = [{"0", "1", "2", "3"} & ids for ids in computing]
    # 4 x 600 tokens at 512 a step.
    assert len([ids for ids in first if ids]) >= 4
    assert not any(first[-one.steps - 1 :])


def test_wrong_answers_are_unsound(loaded, monkeypatch):
    monkeypatch.setattr("optimus_server.demo.tasks.Example.accepts", lambda self, text: False)
    one = windowed(loaded, Window(warm_up=1, answers=5, seconds=0, most=60))
    assert one.right == 0
    assert not one.sound


@pytest.mark.parametrize(
    ("right", "judged", "sound"), [(0, 0, False), (0, 1, False), (1, 2, True), (9, 11, True), (88, 100, False)]
)
def test_one_wrong_answer_proves_nothing_and_nothing_judged_neither(right, judged, sound):
    assert Round(1, 1.0, 1, 0.0, 1.0, 1.0, 1.0, right, judged, enough=0.9).sound is sound


def test_an_answer_that_does_not_end_is_wrong(loaded):
    _, _, asked = loaded
    for one in asked:
        assert len(one.answer) < one.room(2048) < 2 * len(one.answer) + 33
        assert one.room(len(one.ids) + 3) == 3


def test_a_window_in_which_a_kernel_is_compiled_is_opened_anew(loaded, monkeypatch):
    from types import SimpleNamespace

    knobs = pytest.importorskip("triton").knobs
    runner, _, _ = loaded
    engine = engine_of(runner, 2)
    real, restart, steps, opened = engine.step, _Loop.restart, [], []

    def step(meanwhile=None):
        steps.append(1)
        if opened and len(opened) < 3 and len(steps) == opened[-1] + 2:
            knobs.runtime.jit_post_compile_hook(fn=SimpleNamespace(name="kernel"), key="", repr="")
        return real(meanwhile)

    def restarted(loop):
        restart(loop)
        opened.append(len(steps))

    monkeypatch.setattr(engine, "step", step)
    monkeypatch.setattr(_Loop, "restart", restarted)
    before = knobs.runtime.jit_post_compile_hook
    one = windowed(loaded, Window(warm_up=10, answers=5, seconds=0, most=60), engine=engine)
    assert len(opened) == 3
    # The last step tells what was cancelled.
    assert one.steps == len(steps) - opened[-1] - 1
    assert knobs.runtime.jit_post_compile_hook is before


def test_each_window_is_asked_the_same_questions(loaded, monkeypatch):
    runner, _, asked = loaded
    restart, said = _Loop.restart, []

    def restarted(loop):
        restart(loop)
        said.append([loop.running[request.id][0] for request in loop.engine.scheduler.waiting])

    monkeypatch.setattr(_Loop, "restart", restarted)
    for warm_up in (1, 30):
        windowed(loaded, Window(warm_up=warm_up, answers=1, seconds=0, most=60), engine=engine_of(runner, 2))
    first, second = said
    assert first
    assert [one.ids for one in first] == [one.ids for one in second] == [one.ids for one in evenly(asked)[: len(first)]]


def test_tokens_per_step_are_of_the_window(loaded):
    """Chunk 1 of a model with shifted logits commits one token in each step of a request, and computes one position."""
    one = windowed(loaded, Window(warm_up=2, answers=10**6, seconds=0, most=0.5), batch=3, chunk=1)
    assert one.tpf == one.computed_per_token == 1.0
    # The steps that compute the next prompt are the only ones in which a request commits nothing.
    assert 0.7 * 3 * one.steps < one.tokens <= 3 * one.steps
