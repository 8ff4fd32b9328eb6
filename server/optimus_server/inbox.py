"""What the engine's thread is told, and in which order it acts on it.

Everything that changes an engine goes through here: requests, cancellations, an operator's knobs.
"""

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from optimus_server.engine.request import Event, Request
from optimus_server.engine.telemetry import Feed
from optimus_server.errors import InvalidRequest


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
    """What the service asks of an engine; see ``engine.Engine``."""

    def add(self, request: Request) -> None: ...
    def cancel(self, request_id: str) -> None: ...
    def steer(self, *, chunk: int | None, tpot_s: float | None) -> None: ...
    @property
    def busy(self) -> bool: ...
    def step(self, meanwhile: Callable[[], None]) -> list[tuple[str, Event]]: ...
    def load(self) -> LoadLike: ...
    @property
    def feed(self) -> Feed: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """What an operator may set while the server runs.

    Attributes:
        chunk: chunk size of requests that leave it open; None leaves it to the controller.
        tpot_s: target for the time per output token of requests that name none, seconds.
        paused: new requests wait outside the engine; those inside go on.
        closed: new requests are refused, as before a shutdown, but until the operator opens the server again.
    """

    chunk: int | None = None
    tpot_s: float | None = None
    paused: bool = False
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Add:
    request: Request


@dataclass(frozen=True, slots=True)
class Cancel:
    request_id: str


@dataclass(frozen=True, slots=True)
class Turn:
    knobs: Knobs


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Message = Add | Cancel | Turn | Stop


class Inbox:
    """Filled by any thread, emptied by the engine's.

    Args:
        refused: called on the engine's thread with a request that the engine can never run.
    """

    def __init__(self, refused: Callable[[Request, InvalidRequest], None]) -> None:
        self._refused = refused
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._held: dict[str, Request] = {}
        self._paused = False

    @property
    def held(self) -> int:
        """Requests that wait for the end of a pause."""
        return len(self._held)

    def put(self, message: Message) -> None:
        self._messages.put(message)

    def act(self, engine: EngineLike) -> bool:
        """Do what the messages say, waiting for them if there is nothing to compute; False to end the thread."""
        while not (self._messages.empty() and engine.busy):
            match self._messages.get():
                case Add(request) if self._paused:
                    self._held[request.id] = request
                case Add(request):
                    self._add(engine, request)
                case Cancel(request_id):
                    # The engine tells a request's end, also of one it has not seen yet.
                    if request_id in self._held:
                        self._add(engine, self._held.pop(request_id))
                    engine.cancel(request_id)
                case Turn(knobs):
                    engine.steer(chunk=knobs.chunk, tpot_s=knobs.tpot_s)
                    self._pause(engine, knobs.paused)
                case Stop():
                    return False
        return True

    def _pause(self, engine: EngineLike, paused: bool) -> None:
        self._paused = paused
        while self._held and not paused:
            self._add(engine, self._held.pop(next(iter(self._held))))

    def _add(self, engine: EngineLike, request: Request) -> None:
        try:
            engine.add(request)
        except InvalidRequest as error:
            self._refused(request, error)
