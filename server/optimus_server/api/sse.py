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
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from pydantic_core import to_json
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Receive, Scope, Send

from optimus_server.api.leaving import has_left
from optimus_server.errors import GenerationFailed, OptimusError

AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
PING_S = 15.0
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

    The library says what its headers are like. Its four tasks and a scope for each response, and what it does for each
    write, would be a tenth of what a stream costs.

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
        super().__init__(writes, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            if scope["method"] == "HEAD":
                await super().__call__(scope, receive, send)
            else:
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Past the middleware, see ``guards.RequestId``.
        straight = scope.get("state", {}).get("send", send)
        stream, left = asyncio.ensure_future(self._stream(send, straight)), asyncio.ensure_future(has_left(receive))
        ping: asyncio.Future[None] | None = None
        try:
            while (patience := self._patience()) > 0:
                wait = asyncio.wait((stream, left), timeout=min(PING_S, patience), return_when=asyncio.FIRST_COMPLETED)
                if (await wait)[0]:
                    break
                if not self._waiting_since:
                    ping = asyncio.ensure_future(self._write(straight, PING))
            else:
                logger.info("A reader took nothing for %.0f s and was dropped", SEND_TIMEOUT_S)
                # Closing would first send what is buffered; see ``serve.Protocol``.
                if abort := scope.get("state", {}).get("abort"):
                    abort()
                    await left
        finally:
            tasks = [task for task in (stream, left, ping) if task]
            for task in tasks:
                task.cancel()
            # A comment may come after the end; nobody wants to hear of that.
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._writes.aclose()
        if not stream.cancelled():
            stream.result()

    def _patience(self) -> float:
        """For how many seconds a write may still wait."""
        return SEND_TIMEOUT_S - (time.monotonic() - self._waiting_since if self._waiting_since else 0.0)

    async def _stream(self, send: Send, straight: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for write in self._writes:
                if write:
                    await self._write(straight, write)
        except OptimusError as error:
            await self._write(straight, self._failure(error))
        except Exception:
            logger.exception("A stream failed")
            await self._write(straight, self._failure(GenerationFailed("internal error")))
        await self._write(straight, b"", more=False)

    async def _write(self, send: Send, events: bytes, *, more: bool = True) -> None:
        self._waiting_since = self._waiting_since or time.monotonic()
        await send({"type": "http.response.body", "body": events, "more_body": more})
        self._waiting_since = None
