"""The engine's thread seen from asyncio: order, cancellation, permits, failure, and a loop that is never blocked."""

import asyncio
import contextlib
import time

import pytest

from optimus_server import service as service_module
from optimus_server.engine.request import Committed, Finished
from optimus_server.errors import (
    EngineStopped,
    InvalidRequest,
    Overloaded,
    ShuttingDown,
    TimedOut,
    Unavailable,
)
from optimus_server.service import Service
from optimus_server.text.ask import Ask
from optimus_server.text.prompt import Prompter
from optimus_server.thread import EngineThread
from tests.web import BLOCK, END, ScriptedEngine, rules

STEPS = [(10, 11), (12,), (13, END)]


@pytest.fixture
def prompt(tokenizer):
    return Prompter(tokenizer, rules()).prompt(Ask(inputs="hello"))


@contextlib.asynccontextmanager
async def running(engine, max_concurrent=4):
    service = Service(EngineThread(engine), block_size=BLOCK, shift=1, max_concurrent=max_concurrent)
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


def test_the_engine_may_refuse_a_request(prompt):
    engine = answers()
    engine.capacity = 1

    async def main():
        async with running(engine) as service:
            with pytest.raises(InvalidRequest, match="too long for this engine"):
                await collect(service, prompt)

    asyncio.run(main())


def test_permits_are_refused_at_once_and_come_back():
    async def main():
        async with running(answers(), max_concurrent=2) as service:
            with service.permit(), service.permit():
                began = time.perf_counter()
                with pytest.raises(Overloaded), service.permit():
                    pass
                assert time.perf_counter() - began < 0.05
                assert not service.idle
            with service.permit():
                pass
            assert service.idle

    asyncio.run(main())


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


def test_an_id_is_free_again_when_the_engine_has_let_go_of_it(prompt):
    """A client that leaves and comes back under its id must not get what its first request still says."""
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.05)

    async def main():
        async with running(engine) as service:
            with service.permit("wish") as name, service.submit(name, prompt) as batches:
                await anext(batches)
            with service.permit("wish") as early:
                assert early != "wish"
            await until(lambda: not service._permits.reserved)
            with service.permit("wish") as late:
                assert late == "wish"

    asyncio.run(main())


def test_ids_are_unique_among_holders_of_permits():
    async def main():
        async with running(answers()) as service:
            with service.permit("wish") as first, service.permit("wish") as second:
                assert first == "wish" != second
                assert service.permits_taken == 2
            with service.permit("wish") as again, service.permit() as another:
                assert again == "wish" != another
            assert service.load().pages == 0

    asyncio.run(main())


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


def test_a_reader_who_leaves_behind_a_finished_answer_leaves_no_trace(prompt):
    async def main():
        async with running(answers()) as service:
            with service.submit("a", prompt) as batches:
                await anext(batches)
                await until(lambda: batches.over)
            assert not service._permits.reserved
            with service.permit("a") as granted:
                assert granted == "a"

    asyncio.run(main())


def test_what_waits_is_limited_in_tokens(prompt):
    """A request counts until its first event; one that is larger than the whole queue may wait alone."""
    engine = ScriptedEngine(lambda request: [(1,)] * 100, step_s=0.01)

    async def main():
        service = Service(EngineThread(engine), block_size=BLOCK, shift=1, max_concurrent=9, max_queue_tokens=100)
        service.start()
        with service.permit("a") as a, service.permit("b") as b, service.permit("c") as c:
            service.enqueue(a, 150)
            with pytest.raises(Overloaded):
                service.enqueue(b, 1)
            with service.submit(a, prompt) as batches:
                await anext(batches)
                assert service.queued_tokens == 0
                service.enqueue(b, 60)
                with pytest.raises(Overloaded):
                    service.enqueue(c, 41)
                service.enqueue(c, 40)
        assert service.queued_tokens == 0
        await service.stop()

    asyncio.run(main())


def test_a_request_has_its_time(prompt):
    engine = ScriptedEngine(lambda request: [(1,)] * 10_000, step_s=0.01)

    async def main():
        service = Service(EngineThread(engine), block_size=BLOCK, shift=1, max_concurrent=9, timeout_s=0.1)
        service.start()
        with pytest.raises(TimedOut, match=r"longer than 0\.1 s"):
            await collect(service, prompt)
        await until(lambda: engine.ended == [("a", "cancelled")])
        engine.answer = lambda request: list(STEPS)
        assert len(await collect(service, prompt, "b")) == len(STEPS) + 1
        await asyncio.sleep(0.15)
        await service.stop()

    asyncio.run(main())
    assert engine.ended[1:] == [("b", "eos_token")]
