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


class Mailbox:
    """Events of one request that its reader has not taken yet; touched by the event loop only."""

    def __init__(self) -> None:
        self._events: list[Event | Traced | OptimusError] = []
        self._filled = asyncio.Event()
        self.over = False

    def put(self, event: Event | Traced | OptimusError) -> None:
        """Add an event; the first that is neither ``Committed`` nor ``Traced`` is the last, so an end stands."""
        if self.over:
            return
        self.over = not isinstance(event, Committed | Traced)
        self._events.append(event)
        self._filled.set()

    async def take(self) -> list[Event | Traced | OptimusError]:
        await self._filled.wait()
        self._filled.clear()
        events, self._events = self._events, []
        return events
