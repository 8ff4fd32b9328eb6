from itertools import islice

import pytest

from optimus_server.bench.workload import WORKLOADS, Workload
from optimus_server.demo import MODELS
from optimus_server.demo.tasks import held_out
from optimus_server.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(MODELS / "demo")


def prompt(tokenizer, question):
    return tokenizer.encode_chat(question.inputs)[0]


def test_without_wishes_the_questions_are_the_held_out_ones(tokenizer):
    asked = list(islice(Workload().questions(tokenizer), 20))
    assert [one.question for one in asked] == held_out(20)
    assert [one.inputs for one in asked] == [example.inputs for example in held_out(20)]


@pytest.mark.parametrize("context", [128, 900])
def test_a_past_fills_the_prompt_and_leaves_the_question(tokenizer, context):
    asked = list(islice(Workload(context=context).questions(tokenizer), 10))
    for one, example in zip(asked, held_out(10), strict=True):
        assert context - 40 <= len(prompt(tokenizer, one)) <= context
        *earlier, last = one.inputs
        assert (last,) == example.inputs
        assert [message["role"] for message in earlier] == ["user", "assistant"] * (len(earlier) // 2)
        assert one.accepts(example.answer)
        assert one.answer == example.answer
    assert len({one.inputs[0]["content"] for one in asked}) > 5, "no past is another's"


def test_a_question_longer_than_the_context_has_no_past(tokenizer):
    for one in islice(Workload(context=5).questions(tokenizer), 10):
        assert one.earlier == ()


def test_answers_are_as_long_as_wanted(tokenizer):
    for one in islice(Workload(answer=300).questions(tokenizer), 3):
        assert one.task == "story"
        assert len(tokenizer.encode(one.answer)) >= 300


@pytest.mark.parametrize(
    ("name", "prompts", "answers"), [("chat", (120, 136), (38, 50)), ("story", (10, 20), (390, 430)),
                                     ("long", (1950, 2000), (390, 430))]
)  # fmt: skip
def test_the_named_workloads_are_what_they_are_said_to_be(tokenizer, name, prompts, answers):
    asked = list(islice(WORKLOADS[name].questions(tokenizer), 400))
    lengths = [len(prompt(tokenizer, one)) for one in asked]
    wanted = [len(tokenizer.encode(one.answer)) for one in asked]
    assert prompts[0] <= sum(lengths) / 400 <= prompts[1]
    assert answers[0] <= sum(wanted) / 400 <= answers[1]
    assert max(p + a for p, a in zip(lengths, wanted, strict=True)) < 4096


def test_the_same_seed_gives_the_same_questions(tokenizer):
    first, again, other = (
        [one.inputs for one in islice(WORKLOADS["chat"].questions(tokenizer, seed), 5)] for seed in (1, 1, 2)
    )
    assert first == again != other
