"""From bytes to a request body of one kind, and what to say when that fails.

Types are strict, as in TGI and unlike most Python servers: ``"5"`` and ``5.0`` are no integers. Unknown fields are
refused by name. ``null`` is the same as absent.
"""

import json
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optimus_server.errors import InvalidRequest, Malformed


class Body(BaseModel):
    """Base of all bodies.

    Attributes:
        NEUTRAL: fields that cannot be honoured -> values that ask for nothing, besides null.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {}

    def refused(self) -> dict[str, str]:
        """Fields that ask for what cannot be honoured -> the value that would be accepted, in JSON."""
        found = {}
        for name, neutral in self.NEUTRAL.items():
            value = getattr(self, name)
            if value is not None and value not in neutral:
                found[name] = json.dumps(neutral[0] if neutral else None)
        return found


B = TypeVar("B", bound=Body)
T = TypeVar("T")

Items = Annotated[list[T], Field(fail_fast=True)]
"""A list of which only the first wrong item is told: to tell of each of 300,000 would take seconds."""

MAX_PROBLEMS = 1000
"""While they are listed, no stream gets anything."""


def parse(kind: type[B], raw: bytes) -> B:
    """A body of one kind from JSON.

    Raises:
        Malformed: not JSON, or not UTF-8.
        InvalidRequest: a field is missing, unknown or of the wrong type; the first such field is named.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        if (count := error.error_count()) > MAX_PROBLEMS:
            raise InvalidRequest(f"{count} fields are unknown or of the wrong type") from None
        problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    if first["type"] == "json_invalid":
        raise Malformed(f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    if not first["loc"]:
        raise InvalidRequest("the body must be a JSON object")
    # A field that may be of several types has problems for each: the branch that came furthest was meant.
    top = _path(first["loc"]).split(".")[0]
    paths = [_path(problem["loc"]) for problem in problems if str(problem["loc"][0]) == top]
    field = max(paths, key=lambda path: path.count("."))
    same = [problem for problem in problems if _path(problem["loc"]) == field]
    if same[0]["type"] == "missing":
        raise InvalidRequest(f"missing field `{field}`", param=field)
    if same[0]["type"] == "extra_forbidden":
        raise InvalidRequest(f"unknown parameter `{field}`", param=field)
    wishes = dict.fromkeys(problem["msg"].removeprefix("Input should be ") for problem in same)
    text = f"`{field}` must be {' or '.join(wishes)}. Given: {_shown(same[0]['input'])}"
    raise InvalidRequest(text, param=field)


def _path(location: tuple[int | str, ...]) -> str:
    """Where a problem is, without the names pydantic gives to the branches of a union.

    Example: ``("stop", "list[str]", 1)`` -> ``stop.1``
    """
    names = [str(part) for part in location]
    return ".".join(n for n in names if not n.startswith(("list[", "dict[")) and n not in ("str", "int"))


def _shown(value: object) -> str:
    """A wrong value for an error message; never the user's text, which may be private or endless."""
    if isinstance(value, bool | int | float):
        return json.dumps(value)[:40]
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object", type(None): "null"}
    return names[type(value)]
