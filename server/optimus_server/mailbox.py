"""Where the events of one request wait for their reader."""

import asyncio
from dataclasses import dataclass

from optimus_server.engine.request import Committed, Event
from optimus_server.engine.telemetry import RowTrace, StepTrace
from optimus_server.errors import OptimusError


@dataclass(frozen=True, slots=True)
class Traced:
    """One step's part in a request, told to readers who asked for it, before the tokens of that step."""

    step: StepTrace
    row: RowTrace


_MORE = (Committed, Traced)
"""After any other event there is none."""


class Mailbox:
    """Events of one request that its reader has not taken yet; touched by the event loop only.

    Attributes:
        over: the last event is here, or what is there instead of one: an error.
    """

    def __init__(self) -> None:
        self._events: list[Event | Traced] = []
        self._error: OptimusError | None = None
        # A future, since an asyncio.Event would cost as much as all the rest here.
        self._filled: asyncio.Future[None] | None = None
        self.over = False

    def put(self, event: Event | Traced | OptimusError) -> None:
        """Add an event, unless all is over already, so that an end stands."""
        if self.over:
            return
        if isinstance(event, OptimusError):
            self._error = event
        else:
            self._events.append(event)
        self.over = not isinstance(event, _MORE)
        if self._filled and not self._filled.done():
            self._filled.set_result(None)

    def __aiter__(self) -> "Mailbox":
        return self

    async def __anext__(self) -> list[Event | Traced]:
        """All events that are there, in order, once there is one; the error only after them.

        Raises:
            OptimusError: the reader gets no more events, and not the last one.
        """
        if not self._events and not self.over:
            self._filled = asyncio.get_running_loop().create_future()
            await self._filled
            self._filled = None
        if self._error and not self._events:
            raise self._error
        if not self._events:
            raise StopAsyncIteration
        events, self._events = self._events, []
        return events
