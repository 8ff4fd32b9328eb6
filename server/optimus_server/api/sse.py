"""Server-sent events as the clients of TGI and OpenAI read them.

Where this departs from the SSE standard's advice or from sse-starlette's defaults, a client is the reason:

1. Events have no ``id:`` and, but for those of /v1/responses, no ``event:`` name. No client filters by name, and
   OpenAI's Python client takes a keep-alive comment after an ``id`` for an event.
2. Lines end in LF, and ``data:`` has a space after it: huggingface_hub looks for exactly ``data: [DONE]``.
3. All tokens of one step are one write of several events; keep-alive comments may come between writes, never
   inside one.
4. An error after the first byte is an event, as the status has been sent; ``/v1`` still ends with ``[DONE]``.
5. sse-starlette would cut streams off a second after SIGTERM; the server drains by itself instead.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import anyio
from pydantic_core import to_json
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from optimus_server.api.leaving import has_left
from optimus_server.errors import GenerationFailed, OptimusError

AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
PING_S = 15
SEND_TIMEOUT_S = 30.0
"""A reader who takes nothing for this long is dropped; until then the request decodes on."""


def event(payload: Mapping[str, Any]) -> bytes:
    """In ASCII: clients split lines at U+2028 and U+0085, too (huggingface_hub through httpx)."""
    return b"data: " + to_json(payload, ensure_ascii=True) + b"\n\n"


def named_event(payload: Mapping[str, Any]) -> bytes:
    """An event with its ``type`` as its name, as /v1/responses has them."""
    return b"event: " + str(payload["type"]).encode() + b"\n" + event(payload)


def events(payloads: Iterable[Mapping[str, Any]]) -> bytes:
    """Several events as one write."""
    return b"".join(map(event, payloads))


class EventStream(EventSourceResponse):
    """A stream of events that holds resources until its end, however it ends.

    Args:
        writes: each item is one or more whole events, or nothing.
        held: closed when the response is over, also if its first byte was never sent.
        render, wire: what a failure says, and how that is written.
        end: follows a failure.
    """

    def __init__(
        self,
        writes: AsyncGenerator[bytes, None],
        held: AbstractContextManager[Any],
        headers: Mapping[str, str],
        render: Callable[[OptimusError], Mapping[str, Any]],
        *,
        wire: Callable[[Mapping[str, Any]], bytes] = event,
        end: bytes = b"",
    ) -> None:
        self._writes = writes
        self._held = held
        self._failure: Callable[[OptimusError], bytes] = lambda error: wire(render(error)) + end
        self._waiting_since: float | None = None
        self._next_look: asyncio.TimerHandle
        super().__init__(self._guarded(), headers=headers, sep="\n", ping=PING_S)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            try:
                with anyio.CancelScope() as patience:
                    self._look(patience)
                    await super().__call__(scope, receive, self._watched(send))
                if patience.cancelled_caught:
                    logger.info("A reader took nothing for %.0f s and was dropped", SEND_TIMEOUT_S)
                    await _break_off(scope, receive)
            finally:
                self._next_look.cancel()
                await self._writes.aclose()

    async def _guarded(self) -> AsyncIterator[bytes]:
        """The writes that are not empty; if they fail, an event that says so."""
        try:
            async for write in self._writes:
                if write:
                    yield write
        except OptimusError as error:
            yield self._failure(error)
        except Exception:
            logger.exception("A stream failed")
            yield self._failure(GenerationFailed("internal error"))

    def _watched(self, send: Send) -> Send:
        """``send``, with note taken of since when it waits."""

        async def watched(message: Message) -> None:
            self._waiting_since = self._waiting_since or time.monotonic()
            await send(message)
            self._waiting_since = None

        return watched

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """In place of the library's, whose timer for each write costs 6 us, a third of a token's way to its client."""
        await send(message)

    def _look(self, patience: anyio.CancelScope) -> None:
        """End it if a write has waited for ``SEND_TIMEOUT_S``; otherwise look again when one may have."""
        left = SEND_TIMEOUT_S - (time.monotonic() - self._waiting_since if self._waiting_since else 0.0)
        if left > 0:
            self._next_look = asyncio.get_running_loop().call_later(left, self._look, patience)
        else:
            patience.cancel()


async def _break_off(scope: Scope, receive: Receive) -> None:
    """Close the connection without waiting for what is buffered; see ``serve.Protocol``."""
    if abort := scope.get("state", {}).get("abort"):
        abort()
        await has_left(receive)
