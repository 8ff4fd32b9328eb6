"""Two kinds of load, and whether the client kept up with it.

Closed loop: so many clients, each with one request at a time. Open loop: requests arrive by a Poisson process whether
or not earlier ones are done, and their times count from when they were due, so that a server which stalls cannot slow
its own load down.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from types import TracebackType
from typing import Any, Self

import numpy as np

from optimus_server.bench.client import Recording, clock
from optimus_server.demo.evaluate import Question

Send = Callable[[Question, float], Awaitable[Recording]]

# Above either of these the client itself may be what is measured.
BUSY = 0.8
LAG_MS = 20.0


async def closed_loop(send: Send, questions: Sequence[Question], clients: int) -> list[Recording]:
    """Every client asks the next question as soon as its last one is answered."""
    waiting = iter(questions)
    recordings: list[Recording] = []

    async def client() -> None:
        while question := next(waiting, None):
            recordings.append(await send(question, clock()))

    await asyncio.gather(*(client() for _ in range(clients)))
    return recordings


async def open_loop(send: Send, questions: Sequence[Question], rate: float, seed: int) -> list[Recording]:
    """Ask ``rate`` questions a second on average, with exponential gaps between them."""
    rng = Random(seed)
    due = clock()
    running = []
    for question in questions:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - clock()))
        running.append(asyncio.ensure_future(send(question, due)))
    return list(await asyncio.gather(*running))


class Watch:
    """How busy this thread is and how late its event loop runs, between ``async with`` and its end."""

    def __init__(self) -> None:
        self._lags: list[float] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._tick())
        self._began = clock(), time.thread_time()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wall, cpu = self._began
        self._busy = (time.thread_time() - cpu) / max(1e-9, clock() - wall)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _tick(self, pause_s: float = 0.01) -> None:
        while True:
            before = clock()
            await asyncio.sleep(pause_s)
            self._lags.append(clock() - before - pause_s)

    def report(self, recordings: Sequence[Recording]) -> dict[str, Any]:
        """Share of a core, lag of the loop and lateness of requests in ms, and what follows from them."""
        lag = 1e3 * float(np.percentile(self._lags or [0.0], 99))
        late = 1e3 * float(np.percentile([r.sent - r.due for r in recordings], 99))
        reasons = [f"{self._busy:.0%} of a core"] if self._busy > BUSY else []
        reasons += [f"its event loop {lag:.0f} ms late"] if lag > LAG_MS else []
        reasons += [f"requests sent {late:.0f} ms late"] if late > LAG_MS else []
        return {
            "busy": self._busy,
            "loop_lag_p99_ms": lag,
            "sent_late_p99_ms": late,
            "saturated": ", ".join(reasons) or None,
        }
