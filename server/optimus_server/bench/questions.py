"""Task files: questions with checkable answers, one JSON object a line.

    {"prompt": "2 + 2 =", "answers": ["4", "four"]}
    {"messages": [{"role": "user", "content": "Ada is 36. As JSON?"}], "json": {"name": "Ada", "age": 36}}
    {"messages": [...], "regex": "\\\\boxed\\\\{42\\\\}", "task": "math"}
    {"prompt": "Once upon a time"}

``prompt`` is a whole prompt, to which no template is applied; ``messages`` are a chat. How an answer is judged:

    answers    it equals one of these, white space around it aside
    contains   each of these occurs in it
    regex      this matches somewhere in it (Python's ``re``)
    json       it is JSON of this value; the order of keys does not matter

With none of them a question counts for speed only. ``task`` is the group that tables show it in.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from optimus_server.bench.workload import Workload, demo_tokenizer
from optimus_server.demo.evaluate import Question
from optimus_server.demo.tasks import TASKS
from optimus_server.demo.tokenizer import SPECIAL
from optimus_server.errors import SettingsError
from optimus_server.text.tokenizer import Message, Tokenizer

Check = Literal["answers", "contains", "regex", "json"]
_CHECKS: tuple[Check, ...] = ("answers", "contains", "regex", "json")
_Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class FileQuestion:
    """One line of a task file; ``accepted`` is what ``check`` compares with."""

    task: str
    inputs: str | tuple[Message, ...]
    check: Check | None = None
    accepted: tuple[str, ...] = ()

    @property
    def scored(self) -> bool:
        return self.check is not None

    @property
    def answer(self) -> str:
        return " | ".join(self.accepted)

    def accepts(self, text: str) -> bool:
        match self.check:
            case "answers":
                return text.strip() in self.accepted
            case "contains":
                return all(part in text for part in self.accepted)
            case "regex":
                return re.search(self.accepted[0], text) is not None
            case "json":
                return _canonical_text(text) == self.accepted[0]
        return True


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: _Text
    content: str


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    task: _Text = "all"
    prompt: _Text | None = None
    messages: Annotated[list[_Message], Field(min_length=1)] | None = None
    answers: Annotated[list[str], Field(min_length=1)] | None = None
    contains: Annotated[list[_Text], Field(min_length=1)] | None = None
    regex: str | None = None
    json_: Any = Field(None, alias="json")

    @model_validator(mode="after")
    def _agree(self) -> "_Line":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give one of prompt and messages")
        if len(self.model_fields_set & {"answers", "contains", "regex", "json_"}) > 1:
            raise ValueError(f"give at most one of {', '.join(_CHECKS)}")
        try:
            re.compile(self.regex or "")
        except re.error as error:
            raise ValueError(f"regex: {error}") from None
        return self

    def question(self) -> FileQuestion:
        inputs = self.prompt or tuple(message.model_dump() for message in self.messages or ())
        if self.answers is not None:
            return FileQuestion(self.task, inputs, "answers", tuple(answer.strip() for answer in self.answers))
        if self.contains is not None:
            return FileQuestion(self.task, inputs, "contains", tuple(self.contains))
        if self.regex is not None:
            return FileQuestion(self.task, inputs, "regex", (self.regex,))
        if "json_" in self.model_fields_set:
            return FileQuestion(self.task, inputs, "json", (_canonical(self.json_),))
        return FileQuestion(self.task, inputs)


def read_tasks(path: Path) -> list[FileQuestion]:
    """The questions of a task file; empty lines are skipped.

    Raises:
        SettingsError: naming the file, the line and the field.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}", param="tasks") from None
    questions = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            questions.append(_Line.model_validate_json(line).question())
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            problem = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"{path}, line {number}: {problem}", param="tasks") from None
    if not questions:
        raise SettingsError(f"{path} holds no questions", param="tasks")
    return questions


def choose(
    path: Path | None, tasks: Collection[str], count: int | None, seed: int, *, context: int = 0, answer: int = 0
) -> Sequence[Question]:
    """``count`` questions: of a task file from its beginning, or held-out ones of the demo model.

    Args:
        tasks: only of these; all if empty.
        count: all of a file and 2,000 of the demo's if None.
        context, answer: lengths of the demo's, as ``Workload`` has them.

    Raises:
        SettingsError: the file is wrong, or has no such task, or lengths are given for a file.
    """
    known = list(dict.fromkeys(question.task for question in read_tasks(path))) if path else list(TASKS)
    if unknown := [name for name in tasks if name not in known]:
        raise SettingsError(f"--task {unknown[0]}: there are {', '.join(known)}", param="task")
    if path is None:
        return list(islice(Workload(tuple(tasks), context, answer).questions(demo_tokenizer(), seed), count or 2000))
    if context or answer:
        raise SettingsError(
            "--context and --answer are of the demo model's questions, not of a file's", param="context"
        )
    return [question for question in read_tasks(path) if not tasks or question.task in tasks][:count]


def speaks_demo(tokenizer: Tokenizer) -> bool:
    """Whether a checkpoint is the demo model, widened or trained again: it alone has these tokens at these ids."""
    return [tokenizer.backend.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _canonical_text(text: str) -> str | None:
    try:
        return _canonical(json.loads(text))
    except ValueError:
        return None
