import json

import pytest

from optimus_server.bench.questions import choose, read_tasks, speaks_demo
from optimus_server.demo import MODELS
from optimus_server.errors import SettingsError
from optimus_server.text.tokenizer import Tokenizer


def one(tmp_path, **line):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"prompt": "p"} | line))
    (question,) = read_tasks(path)
    return question


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ({"answers": ["4", " four "]}, ["4", " 4\n", "four"], ["", "44", "fourteen", "Four"]),
        ({"contains": ["ab", "cd"]}, ["xcdabx", "ab cd"], ["ab", "ac bd"]),
        ({"regex": r"\b4\b"}, ["it is 4.", "4"], ["44", ""]),
        ({"json": {"a": 1, "b": [True, None]}}, ['{"b": [true, null], "a": 1}'], ['{"a": 1}', "a", '{"a": true}']),
        ({"json": None}, [" null "], ["", "0", "false"]),
        ({"json": 1}, ["1"], ["true", "2"]),
    ],
)
def test_checks(tmp_path, check, right, wrong):
    question = one(tmp_path, **check)
    assert question.scored
    assert all(question.accepts(text) for text in right)
    assert not any(question.accepts(text) for text in wrong)


def test_without_a_check_a_question_is_not_scored(tmp_path):
    assert not one(tmp_path).scored
    assert one(tmp_path, task="poems").task == "poems"


def test_a_chat_is_kept_as_messages(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('\n{"messages": [{"role": "user", "content": "hi"}], "contains": ["hello"]}\n\n')
    (question,) = read_tasks(path)
    assert question.inputs == ({"role": "user", "content": "hi"},)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: Invalid JSON"),
        ("[]", "line 2: Input should be an object"),
        ('{"prompt": ""}', "line 2: prompt: String should have at least 1 character"),
        ("{}", "line 2: give one of prompt and messages"),
        ('{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "line 2: give one of prompt and messages"),
        ('{"messages": [{"role": "user"}]}', "line 2: messages.0.content: Field required"),
        ('{"prompt": "a", "answer": "b"}', "line 2: answer: Extra inputs"),
        ('{"prompt": "a", "answers": "b"}', "line 2: answers: Input should be a valid array"),
        ('{"prompt": "a", "answers": []}', "line 2: answers: List should have at least 1"),
        ('{"prompt": "a", "answers": ["b"], "json": 1}', "line 2: give at most one of answers, contains, regex, json"),
        ('{"prompt": "a", "regex": "("}', "line 2: regex: missing"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, problem):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(SettingsError) as error:
        read_tasks(path)
    assert f"{path}, {problem}" in error.value.message


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff"])
def test_a_file_without_questions(tmp_path, content):
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"tasks\.jsonl"):
        read_tasks(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        read_tasks(tmp_path / "none")


def test_questions_are_chosen_by_task_and_number(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": str(i), "task": "ab"[i % 2]}) for i in range(6)))
    assert [question.inputs for question in choose(path, ["b"], 2, 1)] == ["1", "3"]
    assert len(choose(path, (), None, 1)) == 6
    with pytest.raises(SettingsError, match="--task c: there are a, b"):
        choose(path, ["c"], None, 1)
    assert [question.task for question in choose(None, ["json"], 3, 1)] == ["json"] * 3
    long = choose(None, (), 3, 1, context=300)
    assert [question.inputs[-1] for question in long] == [question.inputs[0] for question in choose(None, (), 3, 1)]
    assert min(len(question.inputs) for question in long) > 5
    with pytest.raises(SettingsError, match="--context"):
        choose(path, (), None, 1, context=300)


def test_the_demo_is_known_by_its_tokens(model_dir):
    assert speaks_demo(Tokenizer.load(MODELS / "demo-sdar"))
    assert not speaks_demo(Tokenizer.load(model_dir))
