"""Clients that leave before their answer is over: a server only notices if somebody listens."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

T = TypeVar("T")


async def has_left(receive: Receive) -> None:
    """Wait until the client leaves. Call it once the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``, but cancel it when the client leaves. Call it once the body has been read.

    Raises:
        ClientDisconnect: the client has left.
    """
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(has_left(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
