"""How requests end that the engine does not finish: refusals, crashes, stuck steps, drains, time limits."""

import asyncio

import pytest

from optimus_server import service as service_module
from optimus_server.engine.request import Finished
from optimus_server.errors import (
    EngineStopped,
    InvalidRequest,
    ShuttingDown,
    TimedOut,
    Unavailable,
)
from tests.services import STEPS, answers, collect, running, until
from tests.web import END, ScriptedEngine


def test_the_engine_may_refuse_a_request(prompt):
    engine = answers()
    engine.capacity = 1

    async def main():
        async with running(engine) as service:
            with pytest.raises(InvalidRequest, match="too long for this engine"):
                await collect(service, prompt)

    asyncio.run(main())


def test_a_crash_fails_every_request_and_the_health(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.005)

    async def main():
        async with running(engine) as service:
            assert service.problem is None
            tasks = [asyncio.create_task(collect(service, prompt, str(i))) for i in range(3)]
            await until(lambda: len(engine.live) == 3)
            engine.explode = True
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [EngineStopped] * 3
            assert "RuntimeError: script says so" in service.problem
            with pytest.raises(EngineStopped), service.permit():
                pass
            with pytest.raises(EngineStopped):
                await collect(service, prompt)

    asyncio.run(main())


def test_a_stuck_step_fails_the_health(prompt, monkeypatch):
    monkeypatch.setattr(service_module, "STUCK_AFTER_S", 0.05)
    engine = ScriptedEngine(lambda request: [(1,)], step_s=0.4)

    async def main():
        async with running(engine) as service:
            task = asyncio.create_task(collect(service, prompt))
            await until(lambda: service.problem)
            assert "one step" in service.problem
            await task
            assert service.problem is None

    asyncio.run(main())


def test_draining_refuses_new_requests_and_finishes_old_ones(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 20, step_s=0.005)

    async def main():
        async with running(engine) as service:
            task = asyncio.create_task(collect(service, prompt))
            await until(lambda: engine.live)
            service.draining = True
            with pytest.raises(Unavailable), service.permit():
                pass
            assert service.problem
            assert len(await task) == 21

    asyncio.run(main())


def test_stop_ends_what_still_runs(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.005)

    async def main():
        async with running(engine) as service:
            task = asyncio.create_task(collect(service, prompt))
            await until(lambda: engine.live)
            await service.stop()
            with pytest.raises(ShuttingDown):
                await task
            with pytest.raises(ShuttingDown):
                await collect(service, prompt, "late")

    asyncio.run(main())
    assert engine.ended == [("a", "cancelled")]


def test_an_answer_that_is_complete_stands_whatever_comes_after(prompt):
    async def main():
        async with running(answers()) as service:
            with service.submit("a", prompt) as batches:
                first = await anext(batches)
                await until(lambda: batches.over)
                service.fail_all()
                events = [*first, *[event async for batch in batches for event in batch]]
            assert isinstance(events[-1], Finished)
            assert [i for event in events[:-1] for i in event.ids] == [10, 11, 12, 13, END]

    asyncio.run(main())


def test_a_request_has_its_time(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.01)

    async def main():
        async with running(engine, 9, timeout_s=0.1) as service:
            with pytest.raises(TimedOut, match=r"longer than 0\.1 s"):
                await collect(service, prompt)
            await until(lambda: engine.ended == [("a", "cancelled")])
            engine.answer = lambda request: list(STEPS)
            assert len(await collect(service, prompt, "b")) == len(STEPS) + 1
            await asyncio.sleep(0.15)

    asyncio.run(main())
    assert engine.ended[1:] == [("b", "eos_token")]
