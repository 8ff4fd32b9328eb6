"""The highest rate of arrivals that a scheme keeps up with."""

from dataclasses import dataclass, replace

import numpy as np

from optimus_server.bench.simulate.scenarios import Setting, schemes
from optimus_server.bench.simulate.workload import aligned, arrivals
from optimus_server.bench.simulate.world import Arrival, Run, Scheme, World

# What 80 GB hold beside an 8B model in bf16, at 147,456 bytes a token.
KV_TOKENS = 376_000
# Requests in a system at most, tokens of a prompt and of an answer.
MOST_ROWS, PROMPT, ANSWER = 512, 128, 512
# A queue is stable if the last fifth of the requests waits less than this for its first tokens, in the median.
WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Sustained:
    """The highest rate of arrivals that a scheme keeps up with, in requests a second, and what it was like then."""

    scheme: str
    bursty: bool
    rate: float
    tpot_p90_s: float
    wait_s: float
    rows: float
    chunk: float


def sustained(
    setting: Setting, scheme: Scheme, *, bursty: bool, tpot_s: float = 0.05, count: int = 800, rounds: int = 5
) -> Sustained:
    """Bisect for the highest rate at which 90 % of the requests take ``tpot_s`` a token or less, and none wait long."""
    limit = _capacity(setting, scheme)
    low, high = 0.4 * limit, 1.05 * limit
    best = serve(setting, scheme, low, bursty=bursty, tpot_s=tpot_s, count=count)
    while not good(best, tpot_s) and low > 0.02 * limit:
        low, high = low / 2, low
        best = serve(setting, scheme, low, bursty=bursty, tpot_s=tpot_s, count=count)
    for _ in range(rounds):
        rate = (low + high) / 2
        found = serve(setting, scheme, rate, bursty=bursty, tpot_s=tpot_s, count=count)
        low, high, best = (rate, high, found) if good(found, tpot_s) else (low, rate, best)
    return best if good(best, tpot_s) else replace(best, rate=0.0)


def loaded(setting: Setting, *, bursty: bool, tpot_s: float, count: int, rounds: int) -> list[Sustained]:
    """The highest rate of every scheme, in their order."""

    def highest(scheme: Scheme, count: int, rounds: int) -> Sustained:
        return sustained(setting, scheme, bursty=bursty, tpot_s=tpot_s, count=count, rounds=rounds)

    ar, block, *fixed, elastic = schemes(setting.recording)
    # Two rounds fewer are four times as coarse; the best ones are then told apart.
    found = [highest(scheme, count // 2, rounds - 2) for scheme in fixed]
    least = 0.9 * max(one.rate for one in found)
    near = [
        highest(scheme, count, rounds) if one.rate > least else one for scheme, one in zip(fixed, found, strict=True)
    ]
    return [highest(ar, count, rounds), highest(block, count, rounds), *near, highest(elastic, count, rounds)]


def good(seen: Sustained, tpot_s: float) -> bool:
    """Whether a rate is sustained."""
    return seen.tpot_p90_s <= tpot_s and seen.wait_s <= WAIT_S


def serve(setting: Setting, scheme: Scheme, rate: float, *, bursty: bool, tpot_s: float, count: int) -> Sustained:
    """Requests arrive at ``rate``, in a system that already has about as many as it will."""
    world = _server(setting, scheme, tpot_s)
    warm = min(MOST_ROWS, round(rate * ANSWER * tpot_s / 2))
    for place in range(warm):
        source = place % len(setting.recording.tasks)
        prompt = aligned(setting.recording, PROMPT, source)
        world.add(Arrival(0.0, prompt, 1 + ANSWER * place // warm, source))
    run = world.open(
        arrivals(setting.recording, rate, count, prompt=PROMPT, answer=ANSWER, bursty=bursty, seed=setting.seed + 1),
        most_waiting=warm + count // 4,
    )
    lives = [life for life in run.lives[warm:] if life.first is not None]
    done = [life.tpot_s for life in lives if life.tokens == life.arrival.answer]
    if len(lives) < count:
        return Sustained(scheme.name, bursty, rate, np.inf, np.inf, 0.0, 0.0)
    waits = [life.first - life.arrival.at for life in lives[-count // 5 :] if life.first is not None]
    return Sustained(
        scheme.name, bursty, rate, float(np.percentile(done, 90)), float(np.median(waits)),
        float(np.mean([step.rows for step in run.steps])), float(np.mean([step.chunk for step in run.steps])),
    )  # fmt: skip


def _server(setting: Setting, scheme: Scheme, tpot_s: float) -> World:
    return World(
        setting.recording, setting.table, scheme, profile=setting.profile, max_rows=MOST_ROWS, kv_tokens=KV_TOKENS,
        tpot_s=tpot_s, ahead=setting.ahead, seed=setting.seed,
    )  # fmt: skip


def _capacity(setting: Setting, scheme: Scheme) -> float:
    """Requests a second with as many at a time as there may be, however long each takes."""
    world = _server(setting, scheme, np.inf)
    draw = iter(
        arrivals(setting.recording, 1.0, 100_000, prompt=PROMPT, answer=ANSWER, bursty=False, seed=setting.seed + 3)
    )
    run = world.closed(MOST_ROWS, 200, lambda: next(draw))
    return run.throughput(100) / ANSWER


def burst(setting: Setting, scheme: Scheme, rate: float, *, count: int, tpot_s: float = 0.05) -> Run:
    """Bursty arrivals, step by step."""
    world = _server(setting, scheme, tpot_s)
    return world.open(
        arrivals(setting.recording, rate, count, prompt=PROMPT, answer=ANSWER, bursty=True, seed=setting.seed + 1)
    )
