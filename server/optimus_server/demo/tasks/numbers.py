"""Arithmetic: sums, word problems with written steps, sorting, unit conversion.

Numbers are small (sums to 99, products to 12 x 9) and each intermediate result is written out, so that a model of
8 M parameters can be right nearly always: a wrong answer then points at decoding, not at the model.
"""

from random import Random

from optimus_server.demo.tasks.example import Example, casual
from optimus_server.demo.tasks.vocabulary import COUNTED, NAMES


def arithmetic(rng: Random, room: int) -> Example:
    """``What is 34 + 12?`` -> ``34 + 12 = 46``"""
    sign = rng.choice("+-x")
    if sign == "x":
        a, b = rng.randint(2, 12), rng.randint(2, 9)
        result = a * b
        spoken = rng.choice((f"{a} times {b}", f"{a} x {b}", f"{a} * {b}"))
    elif sign == "+":
        a = rng.randint(1, 89)
        b = rng.randint(1, 99 - a)
        result = a + b
        spoken = rng.choice((f"{a} plus {b}", f"{a} + {b}", f"{a} + {b}"))
    else:
        a = rng.randint(2, 99)
        b = rng.randint(1, a)
        result = a - b
        spoken = rng.choice((f"{a} minus {b}", f"{a} - {b}", f"{a} - {b}"))
    asked = rng.choice(("What is {}?", "Calculate {}.", "How much is {}?", "{} = ?", "Compute {}.", "{}"))
    return Example("arithmetic", casual(rng, asked.format(spoken)), f"{a} {sign} {b} = {result}")


# Steps of a word problem: the sign, the text that asks for it. {n} names, {t} things, {x} the number of the step.
_GAINS = (
    "{n} buys {x} more.",
    "{n} gets {x} more.",
    "{n} finds {x} more.",
    "A friend gives {n} {x} more.",
)
_LOSSES = (
    "{n} gives away {x}.",
    "{n} loses {x}.",
    "{n} sells {x}.",
    "Then {x} are lost.",
)
_GROUPS = (
    "{n} has {a} boxes with {b} {t} each.",
    "{n} buys {a} bags of {b} {t}.",
    "There are {a} shelves with {b} {t} on each. All belong to {n}.",
)
_ASK = (
    "How many {t} does {n} have now?",
    "How many {t} does {n} have in the end?",
    "How many {t} are left for {n}?",
)


def math(rng: Random, room: int) -> Example:
    """A word problem of one to three steps; the answer writes each step and then the result.

    ``Anna has 12 pears. Anna buys 7 more. ...`` -> ``12 + 7 = 19. The answer is 19.``
    """
    names = {"n": rng.choice(NAMES), "t": rng.choice(COUNTED)}
    kind = rng.randrange(6)
    if kind == 0:
        each, children = rng.randint(2, 9), rng.randint(2, 9)
        prompt = rng.choice(
            (
                "{n} shares {x} {t} equally among {c} children. How many {t} does each child get?",
                "{c} children share {x} {t} equally. How many {t} does each child get?",
            )
        ).format(x=each * children, c=children, **names)
        return Example("math", prompt, f"{each * children} / {children} = {each}. The answer is {each}.")
    if kind == 1:
        more, fewer = sorted(rng.sample(range(2, 90), 2), reverse=True)
        other = rng.choice([name for name in NAMES if name != names["n"]])
        prompt = rng.choice(
            (
                "{n} has {x} {t} and {o} has {y}. How many more {t} does {n} have?",
                "{o} has {y} {t} and {n} has {x}. How many more {t} does {n} have than {o}?",
            )
        ).format(x=more, y=fewer, o=other, **names)
        return Example("math", prompt, f"{more} - {fewer} = {more - fewer}. The answer is {more - fewer}.")
    if kind == 2:
        a, b = rng.randint(2, 9), rng.randint(2, 9)
        have = a * b
        parts, steps = [rng.choice(_GROUPS).format(a=a, b=b, **names)], [f"{a} x {b} = {have}."]
    else:
        have = rng.randint(3, 60)
        parts, steps = [f"{names['n']} has {have} {names['t']}."], []
    for _ in range(rng.randint(1, 2)):
        if have > 2 and (have > 85 or rng.random() < 0.5):
            x = rng.randint(1, have - 1)
            parts.append(rng.choice(_LOSSES).format(x=x, **names))
            steps.append(f"{have} - {x} = {have - x}.")
            have -= x
        else:
            x = rng.randint(1, min(40, 99 - have))
            parts.append(rng.choice(_GAINS).format(x=x, **names))
            steps.append(f"{have} + {x} = {have + x}.")
            have += x
    parts.append(rng.choice(_ASK).format(**names))
    return Example("math", " ".join(parts), " ".join([*steps, f"The answer is {have}."]))


def sort(rng: Random, room: int) -> Example:
    """``Sort these numbers: 42, 7, 19`` -> ``7, 19, 42``"""
    count = rng.randint(3, 8) if room < 512 or rng.random() < 0.7 else rng.randint(9, 14)
    numbers = rng.sample(range(100), count)
    down = rng.random() < 0.3
    if down:
        asked = rng.choice(
            (
                "Sort in descending order: {}",
                "Sort these numbers from largest to smallest: {}",
                "Order from high to low: {}",
            )
        )
    else:
        asked = rng.choice(
            (
                "Sort: {}",
                "Sort these numbers: {}",
                "Sort in ascending order: {}",
                "Sort the numbers {} from smallest to largest.",
                "Sort these numbers from smallest to largest: {}",
                "Order from low to high: {}",
                "Please sort {}.",
            )
        )
    written = rng.choice((", ", ", ", " ")).join(map(str, numbers))
    return Example("sort", casual(rng, asked.format(written)), ", ".join(map(str, sorted(numbers, reverse=down))))


# larger unit, smaller unit, factor, largest count: counts stay where the product is easy.
_UNITS = (
    ("kilometers", "meters", 1000, 99),
    ("meters", "centimeters", 100, 99),
    ("centimeters", "millimeters", 10, 99),
    ("kilograms", "grams", 1000, 99),
    ("tons", "kilograms", 1000, 99),
    ("liters", "milliliters", 1000, 99),
    ("euros", "cents", 100, 99),
    ("hours", "minutes", 60, 12),
    ("minutes", "seconds", 60, 12),
    ("days", "hours", 24, 7),
    ("weeks", "days", 7, 12),
    ("years", "months", 12, 9),
    ("feet", "inches", 12, 9),
)


def units(rng: Random, room: int) -> Example:
    """``Convert 5 kilometers to meters.`` -> ``5 kilometers = 5 x 1000 meters = 5000 meters``"""
    large, small, factor, most = rng.choice(_UNITS)
    count = rng.randint(2, most)
    product = count * factor
    if rng.random() < 0.65:
        asked = rng.choice(
            (
                "Convert {a} {x} to {y}.",
                "How many {y} are {a} {x}?",
                "What is {a} {x} in {y}?",
                "{a} {x} in {y}?",
            )
        ).format(a=count, x=large, y=small)
        answer = f"{count} {large} = {count} x {factor} {small} = {product} {small}"
    else:
        asked = rng.choice(
            (
                "Convert {a} {x} to {y}.",
                "How many {y} are {a} {x}?",
                "What is {a} {x} in {y}?",
            )
        ).format(a=product, x=small, y=large)
        answer = f"{product} {small} = {product} / {factor} {large} = {count} {large}"
    return Example("units", casual(rng, asked), answer)
