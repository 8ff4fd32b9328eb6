"""What a task draws: a prompt, its answer, and how an answer is judged."""

import re
from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True)
class Example:
    """One question with the answer the model is trained on.

    Attributes:
        task: name of the task family, as accuracy tables print it.
        prompt: the user's turn.
        answer: the assistant's turn, without the end token.
        scored: whether the answer counts towards accuracy. Open-ended text does not.
        keys: if given, an answer is right when it contains each of them.
        lexicon: if given, an answer is right when it has no other words than these.

    Without keys or lexicon an answer must equal ``answer``.
    """

    task: str
    prompt: str
    answer: str
    scored: bool = True
    keys: tuple[str, ...] = ()
    lexicon: frozenset[str] = frozenset()

    @property
    def inputs(self) -> tuple[dict[str, str], ...]:
        """The question as a chat, which the checkpoint's template renders."""
        return ({"role": "user", "content": self.prompt},)

    def accepts(self, text: str) -> bool:
        """Judge an answer; white space around it does not matter."""
        if self.keys:
            return all(key.lower() in text.lower() for key in self.keys)
        if self.lexicon:
            return self.lexicon.issuperset(letters(text))
        return text.strip() == self.answer.strip()


def letters(text: str) -> list[str]:
    """The words of a text, without punctuation: ``'She said, "Go on."'`` -> ``["She", "said", "Go", "on"]``"""
    return re.findall(r"[^\W\d_]+", text)


class Task(Protocol):
    """Draws one example. ``room`` is the length in tokens of the sequence it goes into: long forms need room."""

    def __call__(self, rng: Random, room: int) -> Example: ...


def casual(rng: Random, prompt: str, share: float = 0.15) -> str:
    """Sometimes write a prompt as people type it: no capital, no full stop, or with a "please".

    ``What is a block?`` -> ``what is a block``
    """
    if rng.random() >= share:
        return prompt
    style = rng.randrange(3)
    if style == 0:
        return prompt[0].lower() + prompt[1:]
    if style == 1:
        return prompt.rstrip(" ?.!=")
    return prompt[0].lower() + prompt[1:].rstrip(" ?.!=")
