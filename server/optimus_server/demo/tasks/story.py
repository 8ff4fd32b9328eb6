"""Short stories from a grammar: the open-ended workload, high in entropy, never scored.

A story is sound when it has no word that the grammar does not have: tokens that were committed at the same time, or
blind to each other, make words like "crowner".

A story keeps its hero, friend, place and thing; everything else is drawn sentence by sentence. ``[a|b]`` in a
template is a free choice, so that most positions of a story have many continuations, as in real text: block
decoding then commits two or three tokens a step instead of ten.
"""

import re
from random import Random

from optimus_server.demo.tasks.example import Example, casual, letters
from optimus_server.demo.tasks.vocabulary import ANIMALS, NAMES, words

_THINGS = words("key map lantern bell drum kite clock mirror boat basket crown coin letter violin blanket candle")
_PLACES = words(
    "village forest castle harbor mountain island valley garden lighthouse mill meadow library desert tower"
)
_MOODS = words("happy sad brave shy proud tired curious hungry quiet angry lonely cheerful")
_LOOKS = words("old small golden silver broken shiny dusty heavy strange tiny blue red")
_WEATHER = "sun was shining|rain was falling|wind was cold|snow was deep|sky was grey|night was dark|air was warm"

_OPENINGS = (
    "[Once upon a time|Long ago|One day|Many years ago], a [{mood}|young|clever] {kind} [named|called] {hero} "
    "lived in a [{look}|little|quiet] {place}.",
    "{hero} was a {mood} {kind} who lived [near|in|behind] a {place}.",
    "In a [{look}|far away|forgotten] {place} lived a {kind} called {hero}.",
    "[Nobody|No one] in the {place} knew where the {kind} {hero} had come from.",
)
_WISHES = (
    "{hero} [wanted|hoped|wished] to find a {look} {thing}.",
    "Every [night|morning|day], {hero} dreamed of a {look} {thing}.",
    "{hero} had lost a {look} {thing} and felt {mood}.",
    "An old {animal} had told {hero} about a {look} {thing}.",
    "But {hero} was {mood}, because the {thing} of the {place} was gone.",
)
_EVENTS = (
    "[One morning|That day|The next day|In the evening], {hero} [walked|ran|went|climbed] to the {place2}.",
    "The [{weather}], and {hero} [felt|was] {mood}.",
    "On the way, {hero} met a {mood} {animal}.",
    'The {animal} said, "[Come with me|Follow the road|Do not be afraid|Look behind the {place2}]."',
    '"[Where are you going|What are you looking for|Why are you so {mood}]?" asked the {animal}.',
    '"I am looking for [a|the|my] {thing}," [said|answered|whispered] {hero}.',
    "{hero} [opened|found|saw|hid behind] a {look} [door|gate|box|tree].",
    "Under a {look} [stone|bridge|tree|roof], there was a {thing}, "
    "but it was [broken|empty|too heavy|not the right one].",
    "{hero} and {friend} [laughed|cried|rested|sang|waited] until [morning|sunset|midnight|the rain stopped].",
    "Then {friend}, a {mood} {animal}, [came by|appeared|called from the {place2}|brought some food].",
    "{friend} [gave|showed|threw] {hero} a {look} {thing2}.",
    "They [crossed|left|searched|looked at] the {place2} [together|slowly|in silence|without a word].",
    "Suddenly, [a {look} {animal}|a loud noise|a bright light|a voice] came [out of|from] the {place2}.",
    "{hero} was [too {mood}|not {mood} enough] to [sleep|speak|run|turn back].",
    "[For a while|After an hour|At last], the {weather2}.",
    "The {animal} [shook its head|smiled|ran away|fell asleep] and {hero} [went on|sat down|turned around|waited].",
    "With the {thing2}, {friend} [opened the gate|made a fire|scared the {animal}|found the road].",
    "It was [dark|cold|quiet|late] in the {place2}, "
    "and [nobody|only the {animal}|only {friend}] could [see|hear] them.",
)
_ENDINGS = (
    "[In the end|At last|Finally], {hero} found the {thing} [in the {place2}|under the {animal}|next to {friend}].",
    "[So|And so] {hero} [came home|went back to the {place}|stayed in the {place2}] and was never {mood} again.",
    "From that day on, {hero} and {friend} were [good friends|always together|never afraid].",
    "{hero} gave the {thing} to {friend}, and [both were|everyone was] happy.",
)
_LEXICON = frozenset(
    letters(re.sub(r"\{\w+\}", " ", " ".join((*_OPENINGS, *_WISHES, *_EVENTS, *_ENDINGS, _WEATHER))))
) | {*NAMES, *ANIMALS, *_THINGS, *_PLACES, *_MOODS, *_LOOKS, "an", "An"}
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
    ("long ", 14, 18, 512),
    ("very long ", 22, 28, 1024),
)


def story(rng: Random, room: int) -> Example:
    """``Write a short story about a fox named Leo.`` -> four to six sentences about that fox."""
    length, least, most, _ = rng.choice([entry for entry in _LENGTHS if room >= entry[3]])
    hero, friend = rng.sample(NAMES, 2)
    kind, (thing, thing2), (place, place2) = rng.choice(ANIMALS), rng.sample(_THINGS, 2), rng.sample(_PLACES, 2)
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
    ).replace("a owl", "an owl")
    fixed = {
        "hero": hero,
        "friend": friend,
        "kind": kind,
        "thing": thing,
        "thing2": thing2,
        "place": place,
        "place2": place2,
    }
    sentences = rng.randint(least, most)
    plan = [_OPENINGS, _WISHES, *[_EVENTS] * max(0, sentences - 3), _ENDINGS][:sentences]
    told: list[str] = []
    for templates in plan:
        template = rng.choice(templates)
        if rng.random() < 0.15:
            fixed["place2"] = rng.choice(_PLACES)
        told.append(_tell(rng, template, fixed))
    return Example("story", casual(rng, asked), " ".join(told), scored=False, lexicon=_LEXICON)


def _tell(rng: Random, template: str, fixed: dict[str, str]) -> str:
    free = {
        "mood": rng.choice(_MOODS),
        "look": rng.choice(_LOOKS),
        "animal": rng.choice(ANIMALS),
        "weather": _WEATHER,
        "weather2": rng.choice(_WEATHER.split("|")),
    }
    chosen = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), template.replace("{weather}", _WEATHER))
    return _ARTICLE.sub(r"\1n ", chosen.format(**fixed, **free))
