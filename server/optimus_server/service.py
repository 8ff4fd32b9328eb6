"""The engine's thread, and the only bridge between it and asyncio.

One thread owns the engine. Requests and cancellations go to it through an inbox; the events of one step come
back in one call into the event loop, however many requests they are for. An idle engine sleeps on its inbox.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from typing import Protocol

from optimus_server.engine.request import Committed, Event, Request
from optimus_server.errors import (
    EngineStopped,
    InvalidRequest,
    OptimusError,
    Overloaded,
    ShuttingDown,
    Unavailable,
)
from optimus_server.text.prompt import Prompt

logger = logging.getLogger(__name__)

STUCK_AFTER_S = 120.0
"""A step that takes longer makes /health fail. The slowest honest one, prefill on a CPU, takes seconds."""


class LoadLike(Protocol):
    """How busy an engine is; see ``engine.Load``."""

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def free_pages(self) -> int: ...
    @property
    def pages(self) -> int: ...


class EngineLike(Protocol):
    """What the service asks of an engine; ``step`` returns the events of all requests, in order."""

    def add(self, request: Request) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    @property
    def busy(self) -> bool: ...
    def step(self) -> list[tuple[str, Event]]: ...
    def load(self) -> LoadLike: ...


@dataclass(frozen=True, slots=True)
class _Add:
    request: Request


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


class _Mailbox:
    """Events of one request that its reader has not taken yet; touched by the event loop only."""

    def __init__(self) -> None:
        self._events: list[Event | OptimusError] = []
        self._filled = asyncio.Event()
        self.over = False

    def put(self, event: Event | OptimusError) -> None:
        """Add an event; the first that is no ``Committed`` is the last, so an end that is here already stands."""
        if self.over:
            return
        self.over = not isinstance(event, Committed)
        self._events.append(event)
        self._filled.set()

    async def take(self) -> list[Event | OptimusError]:
        await self._filled.wait()
        self._filled.clear()
        events, self._events = self._events, []
        return events


class Service:
    """Runs an engine for many readers.

    Args:
        engine: owned by the service's thread from ``start`` on.
        block_size, shift: of the model, for the requests it makes.
        max_concurrent: permits; one request holds one from ``permit`` to the end of its answer.

    Attributes:
        draining: set before a shutdown: new requests are refused, running ones go on.
    """

    def __init__(self, engine: EngineLike, *, block_size: int, shift: int, max_concurrent: int) -> None:
        self._engine = engine
        self._block_size = block_size
        self._shift = shift
        self._max_concurrent = max_concurrent
        self._inbox: queue.SimpleQueue[_Add | _Cancel | _Stop] = queue.SimpleQueue()
        self._mailboxes: dict[str, _Mailbox] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._step_began: float | None = None
        self._error: str | None = None
        self._closed = False
        self._holders: set[str] = set()
        # Left by their readers, but not yet by the engine, whose step may still tell of them.
        self._leaving: set[str] = set()
        self.draining = False

    def start(self) -> None:
        """Start the engine's thread; its events come to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def fail_all(self) -> None:
        """End every request now, and those still to come: their readers get ``ShuttingDown``."""
        self._closed = True
        for request_id, mailbox in self._mailboxes.items():
            mailbox.put(ShuttingDown())
            self._inbox.put(_Cancel(request_id))

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after its step; requests that still run end with ``ShuttingDown``."""
        self.draining = True
        self.fail_all()
        self._inbox.put(_Stop())
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, timeout_s)

    @property
    def permits_taken(self) -> int:
        return len(self._holders)

    @property
    def idle(self) -> bool:
        """No request holds a permit."""
        return not self._holders

    @property
    def problem(self) -> str | None:
        """Why this server should not be sent requests; None if it should."""
        if self._error:
            return self._error
        began = self._step_began
        if began is not None and time.monotonic() - began > STUCK_AFTER_S:
            return f"the engine has been in one step for more than {STUCK_AFTER_S:.0f} s"
        return "Server is shutting down" if self.draining else None

    def load(self) -> LoadLike:
        return self._engine.load()

    @contextlib.contextmanager
    def permit(self, wish: str | None = None) -> Iterator[str]:
        """One of the permits, without waiting for it; yields the id under which its holder may submit.

        Args:
            wish: the id to have, unless it is in use.

        Raises:
            Overloaded: all are taken.
            Unavailable: the server is draining.
            EngineStopped: the engine's thread has ended.
        """
        if self._error:
            raise EngineStopped(self._error)
        if self.draining:
            raise Unavailable("Server is shutting down")
        if len(self._holders) >= self._max_concurrent:
            raise Overloaded
        taken = self._holders | self._leaving
        request_id = wish if wish and wish not in taken else uuid.uuid4().hex
        self._holders.add(request_id)
        try:
            yield request_id
        finally:
            self._holders.remove(request_id)

    async def submit(self, request_id: str, prompt: Prompt) -> AsyncGenerator[list[Event], None]:
        """Run a prompt; yields the events of one step, or of several if the reader is slow.

        Read it under ``contextlib.aclosing``: closing it cancels the request.

        Raises:
            InvalidRequest: the engine can never run it.
            ShuttingDown, EngineStopped: the engine will not finish it.
        """
        assert request_id not in self._mailboxes
        request = Request(request_id, prompt.ids, prompt.params, block_size=self._block_size, shift=self._shift)
        mailbox = self._mailboxes[request_id] = _Mailbox()
        if self._error:
            mailbox.put(EngineStopped(self._error))
        if self._closed:
            mailbox.put(ShuttingDown())
        self._inbox.put(_Add(request))
        last: Event | OptimusError | None = None
        try:
            while last is None or isinstance(last, Committed):
                *events, last = await mailbox.take()
                told = [event for event in (*events, last) if not isinstance(event, OptimusError)]
                if told:
                    yield told
                if isinstance(last, OptimusError):
                    raise last
        finally:
            del self._mailboxes[request_id]
            if not mailbox.over:
                self._leaving.add(request_id)
                self._inbox.put(_Cancel(request_id))

    def cancel(self, request_id: str) -> None:
        """Let a request end early; its reader gets ``Finished`` with what it has cost."""
        self._inbox.put(_Cancel(request_id))

    def _run(self) -> None:
        try:
            while self._take_messages():
                self._step_began = time.monotonic()
                events = self._engine.step()
                self._step_began = None
                if events:
                    self._call(self._deliver, events)
        except BaseException as error:
            logger.exception("The engine stopped")
            self._step_began = None
            self._call(self._die, f"the engine stopped: {type(error).__name__}: {error}")

    def _take_messages(self) -> bool:
        """Act on the inbox, waiting for it if there is nothing to compute; False to end the thread."""
        while not (self._inbox.empty() and self._engine.busy):
            match self._inbox.get():
                case _Add(request):
                    self._add(request)
                case _Cancel(request_id):
                    self._engine.cancel(request_id)
                case _Stop():
                    return False
        return True

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except InvalidRequest as error:
            self._call(self._deliver, [(request.id, error)])

    def _call(self, function: object, *args: object) -> None:
        assert self._loop is not None
        # The loop may be closed when a late step ends during shutdown; nobody listens then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    def _deliver(self, events: list[tuple[str, Event | OptimusError]]) -> None:
        for request_id, event in events:
            if mailbox := self._mailboxes.get(request_id):
                mailbox.put(event)
            elif not isinstance(event, Committed):
                self._leaving.discard(request_id)

    def _die(self, error: str) -> None:
        self._error = error
        for mailbox in self._mailboxes.values():
            mailbox.put(EngineStopped(error))
