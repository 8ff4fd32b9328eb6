"""Structured data: a sentence to JSON, a table to sentences."""

import json as _json
from random import Random

from optimus_server.demo.tasks.example import Example
from optimus_server.demo.tasks.vocabulary import CITIES, COUNTED, DAYS, FOODS, JOBS, NAMES

_AS_JSON = (
    "Write as JSON: {}",
    "Convert to JSON: {}",
    "Turn this sentence into JSON: {}",
    "{} Write this as JSON.",
    "Extract the data as JSON: {}",
)


def json(rng: Random, room: int) -> Example:
    """``Write as JSON: Anna is 34 years old and lives in Oslo.`` -> ``{"name": "Anna", "age": 34, "city": "Oslo"}``"""
    name, age, city, job = rng.choice(NAMES), rng.randint(18, 80), rng.choice(CITIES), rng.choice(JOBS)
    thing, price, count = rng.choice(COUNTED), rng.randint(1, 60), rng.randint(2, 90)
    day, hour = rng.choice(DAYS), rng.randint(1, 12)
    article = "an" if job[0] in "aeiou" else "a"
    record: dict[str, str | int]
    kind = rng.randrange(5)
    if kind == 0:
        record = {"name": name, "age": age, "city": city}
        sentence = rng.choice(
            (
                f"{name} is {age} years old and lives in {city}.",
                f"{name}, {age}, lives in {city}.",
                f"{name} from {city} is {age} years old.",
            )
        )
    elif kind == 1:
        record = {"name": name, "job": job, "city": city}
        sentence = rng.choice(
            (
                f"{name} works as {article} {job} in {city}.",
                f"{name} is {article} {job} in {city}.",
            )
        )
    elif kind == 2:
        record = {"item": thing, "count": count, "price": price}
        sentence = rng.choice(
            (
                f"We sold {count} {thing} for {price} euros.",
                f"{count} {thing} cost {price} euros.",
            )
        )
    elif kind == 3:
        record = {"event": "meeting", "day": day, "hour": hour, "city": city}
        sentence = rng.choice(
            (
                f"The meeting is on {day} at {hour} in {city}.",
                f"We have a meeting in {city} on {day} at {hour}.",
            )
        )
    else:
        record = {"name": name, "age": age, "job": job, "city": city}
        sentence = rng.choice(
            (
                f"{name} is {age} years old and works as {article} {job} in {city}.",
                f"{name}, {age}, is {article} {job} and lives in {city}.",
            )
        )
    return Example("json", rng.choice(_AS_JSON).format(sentence), _json.dumps(record))


_AS_TEXT = (
    "Turn this table into sentences:\n{}",
    "Describe this table in sentences:\n{}",
    "Write one sentence for each row:\n{}",
)


def table(rng: Random, room: int) -> Example:
    """A table of one to three rows: say each row, or find the row with the largest value.

    ``name | age | city`` / ``Anna | 34 | Oslo`` -> ``Anna is 34 years old and lives in Oslo.``
    """
    rows = rng.randint(1, 3) if room < 512 else rng.randint(1, 5)
    names = rng.sample(NAMES, rows)
    ages = rng.sample(range(18, 80), rows)
    if rng.random() < 0.3 and rows > 1:
        lines = ["name | age", *(f"{n} | {a}" for n, a in zip(names, ages, strict=True))]
        oldest = rng.random() < 0.5
        best = (max if oldest else min)(range(rows), key=ages.__getitem__)
        word = "oldest" if oldest else "youngest"
        return Example(
            "table", f"Who is the {word}?\n" + "\n".join(lines), f"{names[best]} is the {word} at {ages[best]}."
        )
    if rng.random() < 0.6:
        cities = [rng.choice(CITIES) for _ in range(rows)]
        lines = ["name | age | city", *(f"{n} | {a} | {c}" for n, a, c in zip(names, ages, cities, strict=True))]
        said = [f"{n} is {a} years old and lives in {c}." for n, a, c in zip(names, ages, cities, strict=True)]
    else:
        foods = rng.sample(FOODS, rows)
        prices = [rng.randint(1, 30) for _ in range(rows)]
        lines = ["item | price | stock", *(f"{f} | {p} | {s}" for f, p, s in zip(foods, prices, ages, strict=True))]
        said = [f"The {f} costs {p} euros and {s} are in stock." for f, p, s in zip(foods, prices, ages, strict=True)]
    return Example("table", rng.choice(_AS_TEXT).format("\n".join(lines)), " ".join(said))
