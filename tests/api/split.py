"""The synthetic engine in a process of its own: what that spares its steps, and what it costs.

The server's own is ``optimus_server.process``, which builds its engine from settings, so it cannot have this one.
``prove step`` compares an engine in the server's thread with this.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from optimus_server.engine.telemetry import Feed, Load
from optimus_server.text.tokenizer import Tokenizer
from tests import web
from tests.api.readers import Clock
from tests.api.synthetic import SyntheticEngine, host_work


class Remote:
    """What the service's thread sees of an engine elsewhere: it waits for each step's events, without the GIL."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._live: set[str] = set()
        self.feed = Feed()
        self.walls: list[float] = []

    def add(self, request: Any) -> None:
        self._live.add(request.id)
        self._pipe.send(("add", request))

    def cancel(self, request_id: str) -> None:
        self._pipe.send(("cancel", request_id))

    def steer(self, **knobs: Any) -> None:
        """Nothing to steer."""

    @property
    def busy(self) -> bool:
        return bool(self._live)

    def step(self, meanwhile: Callable[[], None]) -> list[Any]:
        meanwhile()
        events, trace = self._pipe.recv()
        if trace:
            self.feed.publish(trace)
        for request_id, event in events:
            if hasattr(event, "usage"):
                self._live.discard(request_id)
        return list(events)

    def load(self) -> Load:
        return Load(len(self._live), 0, 0, 0)


def _run(pipe: Connection, clock: str, device_s: float, host_s: float) -> None:
    engine = SyntheticEngine(Tokenizer(web.small_tokenizer()), Clock(clock), device_s=device_s, host=host_work(host_s))
    traces = engine.feed.subscribe(16)
    pipe.send("ready")
    events: list[Any] = []

    def tell() -> None:
        if events:
            pipe.send((events, next(iter(traces.drain()), None)))

    while True:
        while pipe.poll(0 if engine.busy else None):
            match pipe.recv():
                case "add", request:
                    engine.add(request)
                case "cancel", request_id:
                    engine.cancel(request_id)
                case "end", _:
                    pipe.send(list(engine.walls))
                    return
        events = engine.step(tell)
        if not engine.busy:
            tell()
            events = []


@contextlib.contextmanager
def remote(clock: str, device_s: float, host_s: float) -> Iterator[Remote]:
    """An engine in a process; when the block is over, it has ``walls``."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(theirs, clock, device_s, host_s))
    process.start()
    ours.recv()
    engine = Remote(ours)
    yield engine
    ours.send(("end", None))
    engine.walls = ours.recv()
    process.join()
