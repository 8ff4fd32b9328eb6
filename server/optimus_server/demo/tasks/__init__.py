"""The demo model's tasks: what it is asked, what it answers, and how often each task is trained and tested."""

import itertools
from collections.abc import Collection, Iterator
from random import Random

from optimus_server.demo.tasks.code import code
from optimus_server.demo.tasks.dates import dates
from optimus_server.demo.tasks.example import Example, Task
from optimus_server.demo.tasks.explain import explain
from optimus_server.demo.tasks.numbers import arithmetic, math, sort, units
from optimus_server.demo.tasks.records import json, table
from optimus_server.demo.tasks.story import story
from optimus_server.demo.tasks.talk import refusal, talk
from optimus_server.demo.tasks.words import words

__all__ = ["TASKS", "Example", "Task", "all_held_out", "draw", "held_out"]

# task: (share of training turns, share of test prompts). Hard tasks are trained more often than they are tested.
TASKS: dict[str, tuple[Task, float, float]] = {
    "math": (math, 0.18, 0.12),
    "arithmetic": (arithmetic, 0.10, 0.08),
    "sort": (sort, 0.11, 0.10),
    "words": (words, 0.19, 0.12),
    "units": (units, 0.06, 0.08),
    "dates": (dates, 0.07, 0.08),
    "json": (json, 0.04, 0.08),
    "table": (table, 0.06, 0.08),
    "code": (code, 0.04, 0.08),
    "talk": (talk, 0.02, 0.03),
    "refusal": (refusal, 0.03, 0.03),
    "explain": (explain, 0.05, 0.04),
    "story": (story, 0.05, 0.08),
}

_NAMES = list(TASKS)
_TRAINED = [trained for _, trained, _ in TASKS.values()]
_TESTED = [tested for _, _, tested in TASKS.values()]


def draw(rng: Random, room: int, *, as_tested: bool = False) -> Example:
    """One training example for a sequence of ``room`` tokens, all random choices from ``rng``.

    Args:
        as_tested: tasks in the shares of the test, not of the training.
    """
    (name,) = rng.choices(_NAMES, _TESTED if as_tested else _TRAINED)
    return TASKS[name][0](rng, room)


def held_out(count: int, seed: int = 1, only: Collection[str] = ()) -> list[Example]:
    """The first ``count`` of ``all_held_out``."""
    return list(itertools.islice(all_held_out(seed, only), count))


def all_held_out(seed: int = 1, only: Collection[str] = ()) -> Iterator[Example]:
    """Test prompts without end, from seeds that training never uses (it draws from tuples, see ``corpus``).

    Stories come in every length; other tasks at the size that one short turn has.

    Args:
        only: names of tasks, to have prompts of these alone; all if empty.
    """
    for index in itertools.count():
        rng = Random(f"held out {seed} {index}")
        (name,) = rng.choices(_NAMES, _TESTED)
        if not only or name in only:
            yield TASKS[name][0](rng, 1024 if name == "story" else 256)
