"""The engine on a GPU: recorded steps, mixed steps, and steps that fail, with the demo model."""

import pytest
import torch

from optimus_server.demo import MODELS
from optimus_server.demo.tasks import held_out
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Committed, Failed, Finished, Params, Request
from optimus_server.engine.runner import Runner
from optimus_server.models.loader import load_model
from optimus_server.text.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ROWS, BUDGET = 16, 256
OPTIONS = {"pages": 2000, "page_size": 32, "max_rows": ROWS, "prefill_budget": BUDGET, "share_prefix": False}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(MODELS / "demo")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request):
    return load_model(MODELS / "demo", device="cuda", dtype=getattr(torch, request.param))


def runner_of(model, *, recorded):
    runner = Runner(model, pages=2000, page_size=32)
    if recorded:
        runner.record(max_rows=ROWS, max_positions=ROWS * 64 + BUDGET)
    return runner


def decode(engine, tokenizer, examples, meanwhile=None, **params):
    """Answers by number, and how each ended."""
    config = engine.config
    for number, example in enumerate(examples):
        ids, _ = tokenizer.encode_chat(example.inputs)
        engine.add(
            Request(str(number), ids, Params(max_new_tokens=256, stop_ids=config.eos_token_ids, **params),
                    block_size=config.block_size, shift=config.logit_shift)
        )  # fmt: skip
    answers, ends = [[] for _ in examples], {}
    while engine.busy:
        for name, event in engine.step(meanwhile):
            match event:
                case Committed(ids):
                    answers[int(name)] += ids
                case Finished() | Failed():
                    ends[name] = event
    engine.check()
    assert engine.pool.available == engine.options.pages
    return answers, ends


@pytest.mark.parametrize("chunk", [None, 8])
def test_recorded_steps_answer_as_launched_ones(model, tokenizer, chunk):
    """Not all tokens: a matrix product of another shape rounds otherwise, and a close decision may fall otherwise."""
    examples = held_out(64)
    calls = []
    told = []
    for recorded in (False, True):
        engine = Engine(runner_of(model, recorded=recorded), EngineOptions(**OPTIONS))
        told.append(decode(engine, tokenizer, examples, meanwhile=lambda: calls.append(1), chunk=chunk)[0])
    scored = [number for number, example in enumerate(examples) if example.scored]
    for answers in told:
        right = [
            examples[n].accepts(tokenizer.decode([i for i in answers[n] if i not in model.config.eos_token_ids]))
            for n in scored
        ]
        assert sum(right) >= 0.93 * len(scored)
    same = sum(a == b for a, b in zip(*told, strict=True))
    assert same >= (0.9 if chunk and model.net.norm.dtype is torch.float32 else 0.5) * len(examples)
    assert calls


def test_sampled_and_penalised_requests_run_in_recorded_steps(model, tokenizer):
    engine = Engine(runner_of(model, recorded=True), EngineOptions(**OPTIONS))
    examples = held_out(8)
    sampled = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 3, "chunk": 8}
    first, _ = decode(engine, tokenizer, examples, **sampled)
    again, _ = decode(engine, tokenizer, examples, **sampled)
    assert first == again
    _, ends = decode(
        engine, tokenizer, examples, typical_p=0.8, repetition_penalty=1.2, top_n=3, temperature=0.8,
        unmask="entropy_bounded",
    )  # fmt: skip
    assert all(isinstance(end, Finished) for end in ends.values())


def test_a_step_without_memory_fails_its_requests_and_the_engine_goes_on(model, tokenizer, monkeypatch, caplog):
    runner = runner_of(model, recorded=True)
    engine = Engine(runner, EngineOptions(**OPTIONS))
    with monkeypatch.context() as patch:
        patch.setattr(runner.net, "logits", lambda hidden: torch.empty(2**44, device="cuda"))
        _, ends = decode(engine, tokenizer, held_out(3))
    assert all("OutOfMemoryError" in end.message for end in ends.values())
    answers, ends = decode(engine, tokenizer, held_out(3))
    assert all(isinstance(end, Finished) for end in ends.values())
    assert all(answers)


def test_nan_fails_the_request_that_has_it(model, tokenizer):
    runner = runner_of(model, recorded=True)
    engine = Engine(runner, EngineOptions(**OPTIONS))
    real = runner.net.logits

    def poisoned(hidden):
        logits = real(hidden)
        logits[0] = torch.nan
        return logits

    runner.net.logits = poisoned
    try:
        _, ends = decode(engine, tokenizer, held_out(3), chunk=8)
    finally:
        del runner.net.logits
    kinds = [type(ends[str(number)]) for number in range(3)]
    assert Failed in kinds
    assert all("not a number" in end.message for end in ends.values() if isinstance(end, Failed))
