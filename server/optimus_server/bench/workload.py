"""What the benchmarks of speed ask: held-out questions of the demo model's tasks, as long as they are wanted.

A question becomes longer by its past: earlier questions of the same chat with their answers, as in the demo model's
training. So a long prompt is a real one, and the answer to its last question can still be judged.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from optimus_server.bench.flags import positive
from optimus_server.demo import MODELS
from optimus_server.demo.tasks import TASKS, Example, all_held_out, held_out
from optimus_server.text.tokenizer import Message, Tokenizer

# Earlier turns are drawn from so many, of a seed that no benchmark asks; so many that do not fit end the search.
TURNS, TURNS_SEED, MISSES = 2000, 10**9, 24


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A question with a past."""

    question: Example
    earlier: tuple[Message, ...]

    @property
    def task(self) -> str:
        return self.question.task

    @property
    def inputs(self) -> tuple[Message, ...]:
        return (*self.earlier, *self.question.inputs)

    @property
    def answer(self) -> str:
        return self.question.answer

    @property
    def scored(self) -> bool:
        return self.question.scored

    def accepts(self, text: str) -> bool:
        return self.question.accepts(text)


@dataclass(frozen=True, slots=True)
class Workload:
    """Which questions, and how long.

    Attributes:
        tasks: only these of the demo model's; all if empty.
        context: tokens that a prompt has at most, and nearly has: earlier turns fill what the question leaves. 0 is
            the question alone; one that is longer has no past, either.
        answer: tokens that the wanted answer has at least.
    """

    tasks: tuple[str, ...] = ()
    context: int = 0
    answer: int = 0

    def __str__(self) -> str:
        parts = [", ".join(self.tasks) or "all tasks"]
        parts += [f"prompts of {self.context} tokens"] if self.context else []
        parts += [f"answers of {self.answer} tokens or more"] if self.answer else []
        return ", ".join(parts)

    def questions(self, tokenizer: Tokenizer, seed: int = 1) -> Iterator[FollowUp]:
        """Questions without end; the same seed gives the same ones."""
        rng = Random(f"earlier turns {seed}")
        for example in all_held_out(seed, self.tasks):
            if self.answer and len(tokenizer.encode(example.answer)) < self.answer:
                continue
            room = self.context - _length(tokenizer, example.inputs) if self.context else 0
            yield FollowUp(example, _earlier(rng, tokenizer, room))


# Prompts of about 128 tokens with short answers, of about 43 tokens; the same with stories among the answers, of about
# 45 on average, to which most of the steps then belong; answers of about 410; and those after 2,000 tokens. Then the
# answer lies beyond what the demo model was trained on, but it answers there as well (README.md); its checkpoint must
# allow so many positions (`optimus demo widen --context 4096`).
WORKLOADS = {
    "short": Workload(tasks=tuple(task for task in TASKS if task != "story"), context=136, answer=30),
    "chat": Workload(context=136, answer=18),
    "story": Workload(tasks=("story",), answer=300),
    "long": Workload(tasks=("story",), answer=300, context=2000),
}


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe a workload."""
    parser.add_argument("--task", nargs="+", choices=TASKS, default=[], help="only these tasks of the demo model")
    add_lengths(parser)


def add_lengths(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how long the demo model's questions and answers are."""
    parser.add_argument("--context", type=positive, default=0, help="tokens of a prompt, filled up by earlier turns")
    parser.add_argument("--answer", type=positive, default=0, help="tokens that the wanted answer has at least")


def workload_of(args: argparse.Namespace) -> Workload:
    """What the flags say."""
    return Workload(tuple(args.task), args.context, args.answer)


@lru_cache
def demo_tokenizer() -> Tokenizer:
    """The demo model's, by which lengths are counted where the model itself is out of reach."""
    return Tokenizer.load(MODELS / "demo")


def _earlier(rng: Random, tokenizer: Tokenizer, room: int) -> tuple[Message, ...]:
    """Turns of ``room`` tokens at most."""
    turns: list[Message] = []
    past, missed = _past(tokenizer), 0
    while missed < MISSES and room > 0:
        turn, length = rng.choice(past)
        if length > room:
            missed += 1
            continue
        turns += turn
        room -= length
    return tuple(turns)


@lru_cache(maxsize=4)
def _past(tokenizer: Tokenizer) -> list[tuple[tuple[Message, ...], int]]:
    """Turns with their lengths in tokens."""
    turns: list[tuple[Message, ...]] = [
        (*example.inputs, {"role": "assistant", "content": example.answer})
        for example in held_out(TURNS, seed=TURNS_SEED)
    ]
    # What the template adds for the answer to come counts once only, with the question.
    empty = _length(tokenizer, ({"role": "user", "content": ""},))
    return [(turn, _length(tokenizer, (*turn, {"role": "user", "content": ""})) - empty) for turn in turns]


def _length(tokenizer: Tokenizer, chat: tuple[Message, ...]) -> int:
    return len(tokenizer.encode_chat(chat)[0])
