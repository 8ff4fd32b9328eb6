"""A service on a scripted engine, for the tests of it."""

import asyncio
import contextlib

from optimus_server.service import Service
from optimus_server.thread import EngineThread
from tests.web import BLOCK, END, ScriptedEngine

STEPS = [(10, 11), (12,), (13, END)]


@contextlib.asynccontextmanager
async def running(engine, max_concurrent=4, **limits):
    service = Service(EngineThread(engine), block_size=BLOCK, shift=1, max_concurrent=max_concurrent, **limits)
    service.start()
    try:
        yield service
    finally:
        await service.stop()
        assert not service._host._thread.is_alive()


def answers(*steps):
    return ScriptedEngine(lambda request: list(steps or STEPS))


async def collect(service, prompt, name="a"):
    events = []
    with service.submit(name, prompt) as batches:
        async for batch in batches:
            events += batch
    return events


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
