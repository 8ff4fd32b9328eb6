"""What many streams and an engine cost each other, in one process and in two."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from optimus_server.backend import DEMO_MODEL, Backend
from optimus_server.engine.request import Params, Request
from optimus_server.process import EngineProcess
from optimus_server.text.tokenizer import Tokenizer
from tests import web
from tests.api.readers import Clock
from tests.api.reading import plan, read
from tests.api.synthetic import SyntheticEngine, backend, host_work, serving

DEVICE_S, HOST_S = 0.008, 0.002
"""Of a step: what the device takes, and the host before it."""

STEPS = (20, 40)
"""Of an answer in the closed loop; the mixed tasks of the demo model take as many with 256 at once."""


@dataclass(frozen=True)
class Spent:
    """What the server's process spent on requests whose engine is in another.

    Attributes:
        cpu_ms: of all its threads, a request.
        rate: requests a second.
        busy: share of one core.
    """

    requests: int
    tokens: int
    cpu_ms: float
    rate: float
    busy: float

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.tokens / self.requests:.0f} tokens each, {self.rate:.1f} a second: "
            f"{self.cpu_ms:.2f} ms of CPU a request, {self.busy:.0%} of a core"
        )


def spent(*, count: int, seconds: float, rate: float) -> Spent:
    """So many clients in a closed loop: each asks a question of the demo model's length when its last is answered.

    Args:
        rate: steps a second. While the server keeps up it handles each step by itself; otherwise several at once.
    """
    tokenizer = Tokenizer.load(DEMO_MODEL)
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/clock"
        Clock(path, count, int(rate * (seconds + 120)) + STEPS[1])
        there = EngineProcess(partial(_at_rate, path, rate)).backend(tokenizer)
        with serving(there, permits=2 * count) as live:
            before, began = time.process_time(), time.monotonic()
            told, _ = read(plan(live, "question", count, STEPS, seconds, path))
            cpu_s, took_s = time.process_time() - before, time.monotonic() - began
    requests = told["streams"]
    return Spent(requests, told["events"], 1e3 * cpu_s / requests, requests / took_s, cpu_s / took_s)


def _at_rate(clock: str, rate: float) -> Backend:
    tokenizer = Tokenizer.load(DEMO_MODEL)
    return backend(SyntheticEngine(tokenizer, Clock(clock), rate=rate), tokenizer)


def _with_work(clock: str, *, at_once: bool = False) -> Backend:
    tokenizer, work = Tokenizer(web.small_tokenizer()), host_work(HOST_S)
    return backend(SyntheticEngine(tokenizer, Clock(clock), device_s=DEVICE_S, host=work, at_once=at_once), tokenizer)


def step_times(place: str, *, count: int, steps: int) -> float:
    """The median time of a step with so many requests.

    Args:
        place: of the engine: ``alone``, without a server, in a ``thread`` beside one, in a thread that hands events on
            ``at once``, as ours does not, or in a ``process``.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/clock"
        clock = Clock(path, count, steps * 10)
        if place == "alone":
            engine = _with_work(path).host.engine
            engine.feed.subscribe(1)
            params = Params(max_new_tokens=steps + 1)
            for number in range(count):
                engine.add(Request(f"s{number}", (1,), params, block_size=8, shift=1))
            while engine.busy:
                engine.step(lambda: None)
        else:
            if place == "process":
                there = EngineProcess(partial(_with_work, path)).backend(Tokenizer(web.small_tokenizer()))
            else:
                there = _with_work(path, at_once=place == "at once")
            with serving(there, permits=2 * count) as live:
                read(plan(live, "tgi", count, (steps, steps), 0.0, path))
        walls = np.diff([ended for ended in clock.ended if ended])
    # Requests come and go at both ends.
    return float(np.median(walls[len(walls) // 4 : -len(walls) // 4]))


def compare_steps(*, count: int, steps: int, rounds: int) -> dict[str, float]:
    """Place -> median, over the rounds, of a step's time there over its time alone right before."""
    ratios: dict[str, list[float]] = {"thread": [], "at once": [], "process": []}
    for _ in range(rounds):
        for place, found in ratios.items():
            alone = step_times("alone", count=count, steps=steps)
            found.append(step_times(place, count=count, steps=steps) / alone)
    print({place: [round(ratio, 3) for ratio in found] for place, found in ratios.items()})
    return {place: statistics.median(found) for place, found in ratios.items()}
