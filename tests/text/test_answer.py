"""Events to tokens: special tokens, stop strings and the end."""

import dataclasses

import pytest

from optimus_server.engine.request import Committed, Failed, Finished, Usage
from optimus_server.errors import GenerationFailed
from optimus_server.text.answer import Answer
from optimus_server.text.ask import Ask
from optimus_server.text.prompt import Prompter
from tests.web import END, USER, rules

USAGE = Usage(3, 9, 0, 3, 12, (4, 4.0, 4), 0, 0.0, 0.1)


@pytest.fixture
def answer(tokenizer):
    def make(stop=(), include=True):
        prompt = Prompter(tokenizer, rules()).prompt(Ask(inputs="hi", stop=stop))
        return Answer(dataclasses.replace(prompt, include_stop=include), tokenizer)

    return make


def committed(*ids):
    return Committed(tuple(ids), tuple(-0.1 * i for i in range(len(ids))), 1)


def test_tokens_of_a_step(answer, tokenizer):
    ids = tokenizer.encode("hello world")
    subject = answer()
    tokens = subject.feed([committed(*ids, END), Finished("eos_token", USAGE)])
    assert [token.id for token in tokens] == [*ids, END]
    assert [token.special for token in tokens] == [False] * len(ids) + [True]
    assert [token.logprob for token in tokens[:2]] == [0.0, -0.1][: len(tokens)]
    assert tokens[-1].text == ""
    assert subject.text == "hello world"
    assert (subject.reason, subject.usage) == ("eos_token", USAGE)
    assert subject.first_token_s > 0


def test_special_tokens_inside_an_answer_are_no_text(answer, tokenizer):
    subject = answer()
    subject.feed([committed(*tokenizer.encode("a"), USER, *tokenizer.encode("b"))])
    assert subject.text == "ab"


@pytest.mark.parametrize(("include", "text"), [(True, "hello wor"), (False, "hello ")])
def test_a_stop_string_over_tokens_and_steps(answer, tokenizer, include, text):
    subject = answer(stop=("wor",), include=include)
    for token_id in tokenizer.encode("hello "):
        subject.feed([committed(token_id)])
    for char in "world":
        subject.feed([committed(*tokenizer.encode(char))])
    assert subject.stopped
    assert subject.reason is None
    count = len(subject.tokens)
    subject.feed([committed(*tokenizer.encode("more")), Finished("cancelled", USAGE)])
    assert len(subject.tokens) == count
    assert (subject.reason, subject.text) == ("stop_sequence", text)


def test_a_stop_string_wins_over_the_end_token_behind_it(answer, tokenizer):
    subject = answer(stop=("x",))
    subject.feed([committed(*tokenizer.encode("x"), END), Finished("eos_token", USAGE)])
    assert subject.reason == "stop_sequence"
    assert len(subject.tokens) == 1


def test_what_was_held_back_comes_with_the_last_token(answer, tokenizer):
    subject = answer(stop=("ab!",), include=False)
    assert [t.text for t in subject.feed([committed(*tokenizer.encode("a"))])] == [""]
    last = subject.feed([committed(*tokenizer.encode("b")), Finished("length", USAGE)])
    assert [token.text for token in last] == ["ab"]
    assert (subject.text, subject.reason) == ("ab", "length")


def test_half_a_character_at_the_end(answer, tokenizer):
    subject = answer()
    tokens = subject.feed([committed(tokenizer.encode("😎")[0]), Finished("length", USAGE)])
    assert tokens[-1].text == subject.text == "\ufffd"


def test_failure(answer):
    with pytest.raises(GenerationFailed, match="the model broke"):
        answer().feed([Failed("the model broke", USAGE)])
