"""Days, months and dates."""

from random import Random

from optimus_server.demo.tasks.example import Example, casual
from optimus_server.demo.tasks.vocabulary import DAYS, MONTH_LENGTHS, MONTHS


def dates(rng: Random, room: int) -> Example:
    """``What day is 3 days after Monday?`` -> ``3 days after Monday is Thursday.``"""
    prompt, answer = rng.choice((_weekday, _weekday, _month, _to_words, _to_iso, _length, _tomorrow))(rng)
    return Example("dates", casual(rng, prompt), answer)


def _weekday(rng: Random) -> tuple[str, str]:
    day, n, after = rng.randrange(7), rng.randint(1, 7), rng.random() < 0.6
    there = DAYS[(day + (n if after else -n)) % 7]
    phrase = f"{n} day{'s' if n > 1 else ''} {'after' if after else 'before'} {DAYS[day]}"
    asked = rng.choice(("What day is {}?", "Which day is {}?", "What day of the week is {}?"))
    return asked.format(phrase), f"{phrase} is {there}."


def _month(rng: Random) -> tuple[str, str]:
    month, after = rng.randrange(12), rng.random() < 0.5
    word = "after" if after else "before"
    asked = rng.choice((f"Which month comes {word} {MONTHS[month]}?", f"What month is {word} {MONTHS[month]}?"))
    return asked, f"{MONTHS[(month + (1 if after else -1)) % 12]} comes {word} {MONTHS[month]}."


def _date(rng: Random) -> tuple[int, int, int]:
    month = rng.randrange(12)
    return rng.randint(1900, 2099), month, rng.randint(1, MONTH_LENGTHS[month])


def _to_words(rng: Random) -> tuple[str, str]:
    year, month, day = _date(rng)
    iso = f"{year}-{month + 1:02}-{day:02}"
    return rng.choice((f"Write {iso} in words.", f"What date is {iso}?")), f"{day} {MONTHS[month]} {year}"


def _to_iso(rng: Random) -> tuple[str, str]:
    year, month, day = _date(rng)
    said = f"{day} {MONTHS[month]} {year}"
    asked = rng.choice((f"Write {said} as an ISO date.", f"ISO format of {said}?"))
    return asked, f"{year}-{month + 1:02}-{day:02}"


def _length(rng: Random) -> tuple[str, str]:
    month = rng.randrange(12)
    asked = rng.choice((f"How many days does {MONTHS[month]} have?", f"How long is {MONTHS[month]}?"))
    days = f"{MONTH_LENGTHS[month]} days"
    return asked, f"{MONTHS[month]} has {days + ' (29 in a leap year)' if month == 1 else days}."


def _tomorrow(rng: Random) -> tuple[str, str]:
    _, month, day = _date(rng)
    last = day == MONTH_LENGTHS[month] and month != 1
    then = f"1 {MONTHS[(month + 1) % 12]}" if last else f"{day + 1} {MONTHS[month]}"
    if month == 1 and day == 28:
        then = "29 February in a leap year, else 1 March"
    asked = rng.choice((f"What date comes after {day} {MONTHS[month]}?", f"Which day follows {day} {MONTHS[month]}?"))
    return asked, f"After {day} {MONTHS[month]} comes {then}."
