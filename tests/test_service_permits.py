"""Who may have the engine work, under which id, and how much may wait."""

import asyncio
import time

import pytest

from optimus_server.errors import (
    Overloaded,
)
from tests.services import answers, running, until
from tests.web import ScriptedEngine


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
        async with running(engine, 9, max_queue_tokens=100) as service:
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

    asyncio.run(main())
