"""The generator: deterministic, answerable, and right by its own checker."""

from random import Random

import pytest

from optimus_server.demo.tasks import TASKS, Example, draw, held_out
from optimus_server.demo.tasks.example import casual


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("room", [256, 2048])
def test_a_task_accepts_its_own_answer(name, room):
    rng = Random(f"{name} {room}")
    for _ in range(300):
        example = TASKS[name][0](rng, room)
        assert example.task == name
        assert example.accepts(example.answer), example
        assert example.prompt == example.prompt.strip(), "the chat template trims prompts"
        assert example.answer == example.answer.strip()
        assert not set("{}[]") & set(example.prompt + example.answer) or name in ("json", "code")


def test_the_generator_is_deterministic():
    def some(seed):
        rng = Random(seed)
        return [draw(rng, 512) for _ in range(200)]

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert held_out(50) == held_out(60)[:50], "fewer prompts are the first of more"
    assert held_out(3, only=["sort"]) == [example for example in held_out(99) if example.task == "sort"][:3]


def test_a_scored_prompt_has_one_answer():
    rng = Random(3)
    answers: dict[str, set[str]] = {}
    for _ in range(20_000):
        example = draw(rng, 256)
        if example.scored:
            answers.setdefault(example.prompt, set()).add(example.answer)
    assert [prompt for prompt, given in answers.items() if len(given) > 1] == []


def test_word_problems_are_right():
    rng = Random(4)
    for _ in range(500):
        *steps, last = TASKS["math"][0](rng, 256).answer.rstrip(".").split(". ")
        for step in steps:
            left, right = step.replace("x", "*").split(" = ")
            assert eval(left) == int(right) >= 0
        assert last == f"The answer is {right}"


def test_shares_sum_to_one():
    assert sum(trained for _, trained, _ in TASKS.values()) == pytest.approx(1)
    assert sum(tested for _, _, tested in TASKS.values()) == pytest.approx(1)


def test_wrong_answers_are_refused():
    assert not Example("sort", "Sort: 2, 1", "1, 2").accepts("2, 1")
    assert Example("sort", "Sort: 2, 1", "1, 2").accepts(" 1, 2\n")
    assert Example("explain", "What is a mask?", "...", keys=("position",)).accepts("A Position to fill.")
    assert not Example("explain", "What is a mask?", "...", keys=("position",)).accepts("No idea.")


def test_casual_prompts_keep_their_words():
    written = {casual(Random(seed), "What is 3 + 4?", 1.0) for seed in range(20)}
    assert written == {"what is 3 + 4?", "What is 3 + 4", "what is 3 + 4"}


def test_a_story_is_sound_without_foreign_words():
    example = TASKS["story"][0](Random(5), 256)
    assert example.accepts(example.answer)
    assert not example.accepts(example.answer.replace(". ", ". Crowner ", 1))
    assert not example.scored
