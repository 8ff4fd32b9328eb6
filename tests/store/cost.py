"""What the request log costs an engine's step, measured so that a noisy machine cannot hide it.

One engine runs all the time, and every few steps the log is taken away from it or given back, in random order within
each pair of blocks. What disturbs the machine disturbs both alike; of many pairs the median ratio is told, with the
interval that holds the true median in 19 cases of 20, whatever the distribution. Short blocks see best what the
engine's thread has to do; what the log does elsewhere in the process comes up to 0.3 s later and needs longer ones.
And what the thread does for the log, which is to tell of each step, is timed by itself.
"""

import asyncio
import contextlib
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Params, Unmask
from optimus_server.journal import Journal
from optimus_server.models.loader import load_model
from optimus_server.service import Service
from optimus_server.store.migrate import migrate
from optimus_server.store.session import log_url
from optimus_server.text.prompt import Prompt
from optimus_server.thread import EngineThread
from tests.store.samples import recording, request

STATIC: Unmask = "low_confidence_static"
WARM_UP = 50
"""Steps before the first block."""

SETTLE = 0.25
"""Of a block's steps the first share is not counted: the log still works on what the block before has left."""


@dataclass(frozen=True)
class Ratio:
    """With the log over without it, of many pairs: the median, and the ends of its 95 % confidence interval."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, ratios: list[float]) -> "Ratio":
        # The ranks between which the median lies: binomial, by its normal approximation.
        ordered, reach = sorted(ratios), 0.98 * math.sqrt(len(ratios))
        low = max(0, math.floor(len(ordered) / 2 - reach) - 1)
        high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach))
        return cls(ordered[low], statistics.median(ordered), ordered[high])

    def __str__(self) -> str:
        return f"{self.median:.4f}, 95 % confidence {self.low:.4f} to {self.high:.4f}"


@dataclass(frozen=True)
class StepCost:
    """
    Attributes:
        wall: of steps by the clock, with all that the log does elsewhere in the process.
        cpu: of the CPU time of the engine's thread.
        told: share of its thread's CPU time that an engine with a log spends on telling of its steps.
        step_ms: a step without the log, by the clock.
        steps: counted, with the log.
    """

    wall: Ratio
    cpu: Ratio
    told: float
    step_ms: float
    steps: int


class _Blocks:
    """Wraps an engine's ``step`` and what it tells: times them, and calls ``switch`` where a block begins."""

    def __init__(self, engine: Any, pairs: int, block: int, switch: Callable[[bool], None]) -> None:
        self._step, self._tell, self._block, self._switch = engine.step, engine._tell, block, switch
        engine.step, engine._tell = self.step, self.tell
        rng = random.Random(0)
        self._plan = [logging for _ in range(pairs) for logging in rng.sample((False, True), 2)]
        self._count = -WARM_UP
        self.times: list[list[tuple[float, float]]] = [[] for _ in self._plan]
        self._told_s = self._worked_s = 0.0
        self.logging: bool | None = None

    @property
    def over(self) -> bool:
        return self._count >= len(self._plan) * self._block

    def step(self, meanwhile: Callable[[], None]) -> Any:
        number, place = divmod(self._count, self._block)
        if 0 <= number < len(self._plan) and place == 0:
            self.logging = self._plan[number]
            self._switch(self.logging)
        began, worked = time.perf_counter(), time.thread_time()
        events = self._step(meanwhile)
        taken = time.perf_counter() - began, time.thread_time() - worked
        if self.logging:
            self._worked_s += taken[1]
        if 0 <= number < len(self._plan) and place >= self._block * SETTLE:
            self.times[number].append(taken)
        self._count += 1
        return events

    def tell(self) -> None:
        worked = time.thread_time()
        self._tell()
        if self.logging:
            self._told_s += time.thread_time() - worked

    def cost(self) -> StepCost:
        ratios = []
        for pair in range(0, len(self._plan), 2):
            medians = {self._plan[n]: _medians(self.times[n]) for n in (pair, pair + 1)}
            ratios.append([a / b for a, b in zip(medians[True], medians[False], strict=True)])
        wall, cpu = zip(*ratios, strict=True)
        plain = [wall for n, logging in enumerate(self._plan) if not logging for wall, _ in self.times[n]]
        told = self._told_s / self._worked_s
        return StepCost(Ratio.of(list(wall)), Ratio.of(list(cpu)), told, statistics.median(plain) * 1e3, len(plain))


def step_cost(
    model: Path, place: Path, *, pairs: int, block: int = 40, requests: int = 8, tokens: int = 96
) -> StepCost:
    """Keep a real engine busy with so many requests at once, and compare its steps. Runs an event loop of its own."""
    return asyncio.run(_measure(model, place, pairs, block, requests, tokens))


async def _measure(model: Path, place: Path, pairs: int, block: int, requests: int, tokens: int) -> StepCost:
    migrate(log_url(str(place)))
    engine = Engine(load_model(model), EngineOptions(pages=512))
    config = engine.config
    service = Service(
        EngineThread(engine), block_size=config.block_size, shift=config.logit_shift, max_concurrent=requests
    )
    with recording(str(place)) as recorder:
        journal = Journal(recorder, engine.feed, service.load)
        subscribed = engine.feed._subscriptions

        def switch(logging: bool) -> None:
            engine.feed._subscriptions = subscribed if logging else ()

        switch(False)
        blocks = _Blocks(engine, pairs, block, switch)

        async def client(name: str) -> None:
            # Every step commits as much, so that steps are alike.
            params = Params(max_new_tokens=tokens, chunk=config.block_size // 2, unmask=STATIC, transfer=2)
            for number in range(10**9):
                if blocks.over:
                    return
                key = f"{name}-{number}"
                journal.expect(key, time.time())
                ids = tuple(random.Random(key).choices(range(10, 40), k=30))
                with service.submit(key, Prompt(ids, params, "prompt", (), False, None)) as events:
                    async for _ in events:
                        pass
                if blocks.logging:
                    journal.end(key, request(0, created_us=time.time_ns() // 1000))
                else:
                    del journal._steps[key]

        service.start()
        reading = asyncio.create_task(journal.run())
        await asyncio.gather(*(client(f"{number}") for number in range(requests)))
        await service.stop()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    return blocks.cost()


def _medians(times: list[tuple[float, float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*times, strict=True)]
