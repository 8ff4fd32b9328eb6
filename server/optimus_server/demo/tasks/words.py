"""Word lists: repeat, reverse, upper case, alphabetical order, numbering, counting, picking."""

from collections.abc import Callable
from random import Random

from optimus_server.demo.tasks.example import Example, casual
from optimus_server.demo.tasks.vocabulary import WORDS

_Answer = Callable[[list[str]], str]

_JOBS: tuple[tuple[_Answer, tuple[str, ...]], ...] = (
    (
        " ".join,
        (
            "Repeat: {}",
            "Repeat these words: {}",
            "Say exactly this: {}",
            "Repeat after me: {}",
        ),
    ),
    (
        lambda words: " ".join(reversed(words)),
        (
            "Reverse the order of these words: {}",
            "Write these words backwards, last word first: {}",
            "Reverse: {}",
        ),
    ),
    (
        lambda words: " ".join(words).upper(),
        (
            "Write in upper case: {}",
            "Upper case: {}",
            "Put this in capital letters: {}",
        ),
    ),
    (
        lambda words: ", ".join(sorted(words)),
        (
            "Sort these words alphabetically: {}",
            "Put these words in alphabetical order: {}",
            "Alphabetical order: {}",
        ),
    ),
    (
        lambda words: "\n".join(f"{i}. {word}" for i, word in enumerate(words, 1)),
        (
            "Make a numbered list: {}",
            "Number these words: {}",
            "Write as a numbered list: {}",
        ),
    ),
    (
        lambda words: "\n".join(f"- {word}" for word in words),
        (
            "Make a bullet list: {}",
            "Write as a list with bullets: {}",
        ),
    ),
    (
        lambda words: f"There are {len(words)} words.",
        (
            "How many words are there? {}",
            "Count the words: {}",
        ),
    ),
    (lambda words: words[0], ("What is the first word? {}", "First word of: {}")),
    (lambda words: words[-1], ("What is the last word? {}", "Last word of: {}")),
)
_ODDS = (4, 4, 4, 6, 3, 2, 1, 1, 1)


def words(rng: Random, room: int) -> Example:
    """``Reverse: moon river chair`` -> ``chair river moon``"""
    ((answer, phrasings),) = rng.choices(_JOBS, _ODDS)
    count = rng.randint(3, 7)
    if room >= 512 and rng.random() < 0.3:
        count = rng.randint(8, 16 if answer is not _JOBS[3][0] else 9)
    chosen = rng.sample(WORDS, count)
    separator = rng.choice((" ", " ", ", "))
    return Example("words", casual(rng, rng.choice(phrasings).format(separator.join(chosen))), answer(chosen))
