"""Questions in tokens, and in which order a closed loop asks them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from optimus_server.demo.evaluate import Question
from optimus_server.text.tokenizer import Tokenizer

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in tokens; of its wanted answer ``told`` are part of the prompt."""

    question: Question
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    told: int = 0

    @classmethod
    def of(cls, question: Question, tokenizer: Tokenizer) -> "Asked":
        inputs = question.inputs
        ids = tokenizer.encode(inputs) if isinstance(inputs, str) else tokenizer.encode_chat(inputs)[0]
        return cls(question, ids, tokenizer.encode(question.answer))

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.answer[: self.told]

    def room(self, capacity: int) -> int:
        """Tokens that the rest of the answer may have: twice what is wanted. Who needs more is wrong."""
        return min(2 * (len(self.answer) - self.told) + 32, capacity - len(self.ids))


def evenly(asked: Sequence[Asked]) -> list[Asked]:
    """The same questions in such an order that every stretch of them asks for nearly the same mix.

    A window of a second or two holds some dozen answers, and a story costs as much as ten short ones: drawn at random,
    windows would differ by what they hold. So task by task, by length, steps of the golden ratio are taken::

        story 400, story 410, sum 10, sum 11, sum 12   ->   story 400, sum 11, story 410, sum 12, sum 10
    """
    ranked = sorted(asked, key=lambda one: (one.question.task, len(one.answer)))
    places = sorted(range(len(asked)), key=lambda number: number * GOLDEN % 1)
    return [one for _, one in sorted(zip(places, ranked, strict=True), key=lambda pair: pair[0])]


def in_the_middle(asked: Sequence[Asked], count: int, seed: int = 0) -> list[Asked]:
    """``count`` requests as a loop over ``asked`` holds them at some moment.

    Long answers are met more often: of two with 10 and 30 tokens, one request of four is in the first.
    """
    rng = Random(seed)
    ends = list(accumulate(len(one.answer) for one in asked))
    found = []
    place = 0
    for number in range(count):
        point = (number + rng.random()) / count * ends[-1]
        while ends[place] <= point:
            place += 1
        one = asked[place]
        found.append(Asked(one.question, one.prompt, one.answer, int(point) - (ends[place] - len(one.answer))))
    rng.shuffle(found)
    return found
