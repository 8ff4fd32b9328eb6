"""A server with a synthetic engine: so many steps a second, whatever the model would be."""

import contextlib
import gc
import socket
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

from optimus_server.backend import Backend
from optimus_server.serve import Drain, Server
from optimus_server.store.migrate import migrate
from optimus_server.store.session import log_url
from optimus_server.text.tokenizer import Tokenizer
from tests import web
from tests.api.readers import LETTERS, Clock
from tests.store.samples import recording


def host_work(seconds: float) -> Callable[[], object]:
    """Work of so much CPU time, half of it in calls that let go of the GIL for some 10 us, as torch's do."""
    block = bytes(40_000)

    def work(rounds: int) -> None:
        for _ in range(rounds):
            zlib.crc32(block)
            for _ in range(400):
                pass

    work(100)
    began = time.thread_time()
    work(1000)
    rounds = round(1000 * seconds / (time.thread_time() - began))
    return lambda: work(rounds)


class Letters:
    """A script that is not written out: each step the next letter, then the end."""

    def __init__(self, ids: list[int], steps: int) -> None:
        self._ids, self._steps, self._done = ids, steps, 0

    def __bool__(self) -> bool:
        return self._done <= self._steps

    def pop(self, first: int) -> tuple[int]:
        self._done += 1
        return (self._ids[(self._done - 1) % 26],) if self._done <= self._steps else (web.END,)


class SyntheticEngine(web.ScriptedEngine):
    """Every request gets the next letter in each step, and the end as its last token.

    Args:
        clock: where it tells the readers what it does; without one nobody reads.
        rate: steps a second, if a step's work allows them: each waits as for a device, without the GIL.
        device_s: how long it waits instead, if it is not to keep to a rate.
        host: work of each step that comes before, as planning and launching do.
        at_once: events are handed on before that work instead of while it waits, for comparison.

    Attributes:
        worked_s: CPU time of its thread so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        clock: Clock | None,
        *,
        rate: float = 0.0,
        device_s: float = 0.0,
        host: Callable[[], object] = lambda: None,
        at_once: bool = False,
    ) -> None:
        super().__init__(lambda request: [])
        self._letters = [tokenizer.encode(chr(letter))[0] for letter in LETTERS]
        self._clock, self._rate, self._device_s, self._host = clock, rate, device_s, host
        self._at_once = at_once
        self._due = 0.0
        self.ended = cast("Any", deque(maxlen=1000))
        self.worked_s = 0.0

    def add(self, request: Any) -> None:
        self.live[request.id] = (request, cast("Any", Letters(self._letters, request.params.max_new_tokens - 1)))
        if self._clock:
            self._clock.began[int(request.id[1:].split("-")[0])] = self.steps

    def step(self, meanwhile: Callable[[], None]) -> list[Any]:
        for work in (meanwhile, self._host) if self._at_once else (self._host, meanwhile):
            work()
        now = time.monotonic()
        self._due = max(now, self._due + 1 / self._rate) if self._rate else now + self._device_s
        time.sleep(self._due - now)
        number, events = self.steps, super().step(lambda: None)
        if self._clock:
            self._clock.ended[number] = time.time()
        self.worked_s = time.thread_time()
        return events


def backend(engine: SyntheticEngine, tokenizer: Tokenizer) -> Backend:
    return web.backend(engine, tokenizer, max_total_tokens=10**6, max_input_tokens=10**6, vocab_size=10**6)


@contextlib.contextmanager
def serving(backend: Backend, *, permits: int) -> Iterator[web.Live]:
    """A server as ``optimus serve`` runs it, request log included, in a thread of this process."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as held:
        # A server sets the collector up for itself.
        held.callback(gc.unfreeze)
        held.callback(gc.set_threshold, *gc.get_threshold())
        place = str(Path(directory) / "log.db")
        migrate(log_url(place))
        recorder = held.enter_context(recording(place))
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=permits))
        app = web.served(backend, recorder, max_concurrent_requests=permits)
        started = threading.Event()
        server = Server(app, Drain(app.state.desk.service, 10), started.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert started.wait(10)
            yield web.Live(f"http://127.0.0.1:{listener.getsockname()[1]}", None, app)
            web.wait_for(lambda: app.state.desk.service.idle)
            assert not app.state.desk.service._mailboxes
        finally:
            server.should_exit = True
            thread.join()
