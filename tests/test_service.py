"""The engine's thread seen from asyncio: order, cancellation, and a loop that is never blocked."""

import asyncio
import time

from optimus_server.engine.request import Committed, Finished
from tests.services import STEPS, answers, collect, running, until
from tests.web import ScriptedEngine


def test_events_come_in_order_and_end(prompt):
    async def main():
        async with running(answers()) as service:
            return await collect(service, prompt)

    events = asyncio.run(main())
    assert [event.ids for event in events if isinstance(event, Committed)] == STEPS
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "eos_token"


def test_requests_run_together_and_keep_apart(prompt):
    engine = ScriptedEngine(lambda request: [(int(request.id),)] * 5)

    async def main():
        async with running(engine, 50) as service:
            return await asyncio.gather(*(collect(service, prompt, str(i)) for i in range(50)))

    for i, events in enumerate(asyncio.run(main())):
        assert [event.ids for event in events[:-1]] == [(i,)] * 5


def test_events_of_a_step_arrive_together(prompt):
    async def main():
        async with running(answers((1, 2))) as service:
            with service.submit("a", prompt) as batches:
                return [batch async for batch in batches]

    batches = asyncio.run(main())
    assert [[type(event) for event in batch] for batch in batches] == [[Committed, Finished]]


def test_leaving_the_block_cancels(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.005)

    async def main():
        async with running(engine) as service:
            with service.submit("a", prompt) as batches:
                async for _ in batches:
                    break
            await until(lambda: engine.ended)
            assert engine.ended == [("a", "cancelled")]
            with service.submit("b", prompt) as batches:
                assert await anext(batches)

    asyncio.run(main())


def test_a_cancelled_reader_cancels_even_before_the_first_event(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.05)

    async def main():
        async with running(engine) as service:
            task = asyncio.create_task(collect(service, prompt))
            await asyncio.sleep(0.01)
            task.cancel()
            await until(lambda: engine.ended == [("a", "cancelled")])
            assert not service._mailboxes

    asyncio.run(main())


def test_cancel_lets_the_reader_have_the_usage(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.002)

    async def main():
        async with running(engine) as service:
            events = []
            with service.submit("a", prompt) as batches:
                async for batch in batches:
                    events += batch
                    service.cancel("a")
            return events

    last = asyncio.run(main())[-1]
    assert (last.reason, last.usage.generated_tokens > 0) == ("cancelled", True)


def test_a_slow_step_does_not_block_the_loop(prompt):
    engine = ScriptedEngine(lambda request: [(1,)], step_s=0.5)

    async def main():
        async with running(engine) as service:
            task = asyncio.create_task(collect(service, prompt))
            worst = 0.0
            while not task.done():
                began = time.perf_counter()
                await asyncio.sleep(0.001)
                worst = max(worst, time.perf_counter() - began)
            return worst

    assert asyncio.run(main()) < 0.1


def test_an_idle_engine_sleeps():
    engine = answers()
    steps = 0
    step = engine.step

    def counted(meanwhile):
        nonlocal steps
        steps += 1
        return step(meanwhile)

    engine.step = counted

    async def main():
        async with running(engine):
            await asyncio.sleep(0.2)

    began = time.process_time()
    asyncio.run(main())
    assert steps == 0
    assert time.process_time() - began < 0.1
