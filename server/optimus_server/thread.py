"""An engine in a thread: what the service talks to, and how the engine's own loop goes."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from optimus_server.engine.request import Event
from optimus_server.engine.telemetry import Feed
from optimus_server.errors import OptimusError
from optimus_server.inbox import EngineLike, Inbox, LoadLike, Message

logger = logging.getLogger(__name__)

Told = list[tuple[str, Event | OptimusError]]
"""What has become of requests, by id, in order."""


def calm_collector() -> None:
    """Let Python's garbage collector look for less, less often.

    What is loaded by now stays: it need not look through torch's modules while streams wait. And each 700 objects are
    100 times a second with many streams, all of which live for seconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


class Host(Protocol):
    """Where an engine lives. Messages may be put from any thread; what it calls back is on a thread of its own.

    Attributes:
        feed: of the engine's steps.
        step_began: since when the engine has been silent with work to do (``time.monotonic``); None if it has none.
        held: requests that wait outside the engine for the end of a pause.
    """

    feed: Feed

    @property
    def step_began(self) -> float | None: ...
    @property
    def held(self) -> int: ...
    def start(self, deliver: Callable[[Told], None], died: Callable[[str], None]) -> None: ...
    def put(self, message: Message) -> None: ...
    def load(self) -> LoadLike: ...
    def join(self, timeout_s: float) -> None: ...


class EngineThread:
    """A ``Host`` in this process. An idle engine sleeps on its inbox.

    Args:
        engine: owned by the thread from ``start`` on.
    """

    def __init__(self, engine: EngineLike) -> None:
        self.engine = engine
        self.feed = engine.feed
        self.step_began: float | None = None
        self._inbox = Inbox(lambda request, error: self._deliver([(request.id, error)]))
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._undelivered: Told = []
        self._deliver: Callable[[Told], None] = lambda told: None
        self._died: Callable[[str], None] = lambda error: None

    @property
    def held(self) -> int:
        return self._inbox.held

    def start(self, deliver: Callable[[Told], None], died: Callable[[str], None]) -> None:
        self._deliver, self._died = deliver, died
        self._thread.start()

    def put(self, message: Message) -> None:
        self._inbox.put(message)

    def load(self) -> LoadLike:
        return self.engine.load()

    def join(self, timeout_s: float | None = None) -> None:
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while self._inbox.act(self.engine):
                self.step_began = time.monotonic()
                # What a step has brought is handed on while the next one is computed.
                self._undelivered = list(self.engine.step(self._hand_on))
                self.step_began = None
                if not self.engine.busy:
                    self._hand_on()
        except BaseException as error:
            logger.exception("The engine stopped")
            self.step_began = None
            self._died(f"the engine stopped: {type(error).__name__}: {error}")

    def _hand_on(self) -> None:
        told, self._undelivered = self._undelivered, []
        if told:
            self._deliver(told)
