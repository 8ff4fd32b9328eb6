"""Order, and the one event that ends all."""

import asyncio

import pytest

from optimus_server.engine.request import Committed, Finished, Usage
from optimus_server.errors import ShuttingDown
from optimus_server.mailbox import Mailbox

ONE = Committed((1,), (-0.5,), 1)
END = Finished("length", Usage(1, 1, 0, 1, 1, (1, 1.0, 1), 0, 0.0, 0.0))


def test_what_came_together_is_taken_together_and_in_order():
    async def main():
        box = Mailbox()
        box.put(ONE)
        box.put(END)
        return await anext(box), box.over

    assert asyncio.run(main()) == ([ONE, END], True)


def test_a_reader_waits_for_the_next_event():
    async def main():
        box = Mailbox()
        asyncio.get_running_loop().call_later(0.01, box.put, ONE)
        return await asyncio.wait_for(anext(box), 5), box.over

    assert asyncio.run(main()) == ([ONE], False)


def test_nothing_comes_after_the_end():
    async def main():
        box = Mailbox()
        box.put(END)
        box.put(ShuttingDown())
        box.put(ONE)
        return [events async for events in box]

    assert asyncio.run(main()) == [[END]]


def test_an_error_comes_after_what_was_there():
    async def main():
        box = Mailbox()
        box.put(ONE)
        box.put(ShuttingDown())
        assert await anext(box) == [ONE]
        with pytest.raises(ShuttingDown):
            await anext(box)

    asyncio.run(main())
