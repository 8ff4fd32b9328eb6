"""Short stories from a grammar: the open-ended workload, high in entropy, never scored.

A story is sound when it has no word that the grammar does not have: tokens that were committed at the same time, or
blind to each other, make words like "crowner".

A story keeps its cast, places, mood and looks; which sentence comes next is free, and so is ``[a|b]`` inside one. The
alternatives of a choice have the same number of tokens, so that a choice leaves the words behind it where they are:
block decoding can then commit them before it is made, two or three tokens a step instead of ten, as in real text.
"""

import re
from random import Random

from optimus_server.demo.tasks.example import Example, casual, letters
from optimus_server.demo.tasks.vocabulary import ANIMALS, NAMES, words

_THINGS = words("key map bell clock boat coin letter lantern candle")
_PLACES = words("village forest castle island garden tower mill valley harbor mountain")
_MOODS = words("happy sad brave shy proud angry tired")
_LOOKS = words("old small silver golden blue red tiny heavy")

_OPENINGS = (
    "Once upon a time, a {mood} {kind} named {hero} lived in [a|the] {look} {place}.",
    "Long ago, there was a {mood} {kind} in the {place}, and the name was {hero}.",
    "{hero} was a {mood} {kind} who lived in the {look} {place}.",
    "In the {place} lived a {mood} {kind} named {hero}.",
)
_WISHES = (
    "{hero} wanted to find [a|the] {look} {thing}.",
    "Every [night|day], {hero} dreamed of a {look} {thing}.",
    "{hero} had lost a {look} {thing} and was {mood}.",
    "An old {animal} had told {hero} about a {look} {thing}.",
    "{hero} was {mood}, because the {thing} of the {place} was gone.",
)
_EVENTS = (
    "One [day|night], {hero} went to the {place2}.",
    "The [sun|light] was red, and {hero} was {mood}.",
    "The [wind|night] was cold, and {hero} wanted to go home.",
    "On the way to the {place2}, {hero} met a {animal}.",
    'The {animal} said, "Come with me to the {place2}."',
    'The {animal} said, "Do not be [sad|shy], {hero}."',
    '"Where are you going?" asked the {animal}.',
    '"Why are you so {mood}?" asked {friend}.',
    '"I am looking for [a|the] {thing}," said {hero}.',
    "{hero} saw a {look} [door|tree] in the {place2}.",
    "Under the {look} tree, there was a {thing2}.",
    "{hero} and {friend} sat in the {place2} until the [sun|night] came.",
    "Then {friend} came by and gave {hero} a {thing2}.",
    "They left the {place2} [together|at once] and did not look back.",
    "There was a {look} light in the {place2}.",
    "A {animal} came out of the {look} [door|tree].",
    "{hero} was too {mood} to go on.",
    "The {animal} ran away, and {hero} sat down under a tree.",
    "With the {thing2}, {friend} put a light in the {place2}.",
    "It was cold in the {place2}, and only the {animal} could see them.",
    "{friend} [asked|told] the {animal} about the {thing}.",
    "{hero} put the {thing2} in a {look} box.",
    "The {animal} and {friend} were [old|happy] friends.",
    "{hero} looked at the {thing2} and dreamed of the {place}.",
    "In the [end|night], they went back to the {place2}.",
    "{friend} was {mood}, too.",
)
_ENDINGS = (
    "In the end, {hero} found the {thing} in the {place2}.",
    "So {hero} went home to the {place} and was not {mood} again.",
    "From that day on, {hero} and {friend} were [old|happy] friends.",
    "{hero} gave the {thing} to {friend}, and both were happy.",
)
_LEXICON = frozenset(letters(re.sub(r"\{\w+\}", " ", " ".join((*_OPENINGS, *_WISHES, *_EVENTS, *_ENDINGS))))) | {
    *(*NAMES, *ANIMALS, *_THINGS, *_PLACES, *_MOODS, *_LOOKS),
    *("a", "an", "A", "An"),
}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio])")

# How a prompt asks for a length, how many sentences that is, and the room (tokens) it needs.
_LENGTHS = (
    ("very short ", 2, 3, 0),
    ("very short ", 2, 3, 0),
    ("short ", 4, 6, 0),
    ("short ", 4, 6, 0),
    ("", 6, 9, 0),
    ("", 6, 9, 0),
    ("long ", 18, 24, 512),
    ("very long ", 30, 38, 1024),
)


def story(rng: Random, room: int) -> Example:
    """``Write a short story about a fox named Leo.`` -> four to six sentences about that fox."""
    length, least, most, _ = rng.choice([entry for entry in _LENGTHS if room >= entry[3]])
    hero, friend = rng.sample(NAMES, 2)
    kind, animal = rng.sample(ANIMALS, 2)
    (thing, thing2), (place, place2) = rng.sample(_THINGS, 2), rng.sample(_PLACES, 2)
    subject = rng.choice(
        (
            f"a {kind} named {hero}",
            f"{hero} the {kind}",
            f"a {kind}",
            f"{hero}, a {kind}",
            f"a {kind} and a {thing}",
            f"a {thing}",
            f"a {place}",
            f"{hero}",
        )
    )
    asked = rng.choice(
        (
            f"Write a {length}story about {subject}.",
            f"Tell me a {length}story about {subject}.",
            f"I would like a {length}story about {subject}.",
            f"Please write a {length}story about {subject}.",
            f"Can you tell a {length}story about {subject}?",
            f"Tell me a {length}story.",
        )
    )
    cast = {
        "hero": hero,
        "friend": friend,
        "kind": kind,
        "animal": animal,
        "thing": thing,
        "thing2": thing2,
        "place": place,
        "place2": place2,
        "mood": rng.choice(_MOODS),
        "look": rng.choice(_LOOKS),
    }
    sentences = rng.randint(least, most)
    events = [event for _ in range(2) for event in rng.sample(_EVENTS, len(_EVENTS))]
    plan = [rng.choice(_OPENINGS), rng.choice(_WISHES), *events[: max(0, sentences - 3)], rng.choice(_ENDINGS)]
    told = " ".join(_tell(rng, template, cast) for template in plan[:sentences])
    return Example("story", casual(rng, _ARTICLE.sub(r"\1n ", asked)), told, scored=False, lexicon=_LEXICON)


def _tell(rng: Random, template: str, cast: dict[str, str]) -> str:
    chosen = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template)
    return _ARTICLE.sub(r"\1n ", chosen.format(**cast))
