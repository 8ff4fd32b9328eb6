"""An engine in a process of its own: the ``Host`` for a GPU.

A GPU's steps take milliseconds, as long as the engine's own Python and that of some hundred streams; with one
interpreter each waits for the other. Here the engine has one to itself, and what kills it (a fault of the device, the
kernel's hunt for memory) ends its requests with an error, not the server.

The two talk through a pipe, with a thread at each end that writes and one that reads, so that nobody waits for it.
"""

import atexit
import contextlib
import logging
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from optimus_server import logs
from optimus_server.api.exchange import Facts
from optimus_server.backend import Backend, build_backend, model_path
from optimus_server.engine.telemetry import Feed, Load, StepTrace
from optimus_server.errors import OptimusError
from optimus_server.inbox import Add, LoadLike, Message, Stop
from optimus_server.settings import Settings
from optimus_server.text.ask import Rules
from optimus_server.text.prompt import Prompter
from optimus_server.text.tokenizer import Tokenizer
from optimus_server.thread import EngineThread, Told, calm_collector
from optimus_server.wire import Asked, packed, unpacked

logger = logging.getLogger(__name__)

UNREAD = 256
"""Traces that may wait for the pipe; of more the oldest are lost."""
BEAT_S = 0.5
"""The engine's process says so often that it lives, and how the engine is."""
SILENT_S = 10.0
"""One that has said nothing for so long is stuck, whatever it last said of its engine."""


def build(settings: Settings) -> Backend:
    """What ``create_app`` serves, with the engine where the settings want it.

    Raises:
        OptimusError: as ``build_backend``, or the engine's process has ended before it was ready.
    """
    if (settings.engine_in or _default(settings)) == "thread":
        return build_backend(settings)
    host = EngineProcess(partial(_build_there, settings))
    try:
        # Takes seconds, too: both processes load at once.
        tokenizer = Tokenizer.load(model_path(settings))
    except OptimusError:
        # The engine may know better what is wrong.
        host.ready()
        host.kill()
        raise
    return host.backend(tokenizer)


def _build_there(settings: Settings) -> Backend:
    logs.set_up(as_json=settings.json_output)
    return build_backend(settings)


def _default(settings: Settings) -> str:
    import torch

    # Asks the driver only: the memory that a context takes on the device is for the process that uses it.
    on_gpu = settings.device.startswith("cuda") if settings.device else torch.cuda.is_available()
    return "process" if on_gpu else "thread"


@dataclass(frozen=True, slots=True)
class _About:
    """What is known of an engine that is ready."""

    rules: Rules
    facts: Facts
    shift: int
    load: LoadLike


@dataclass(frozen=True, slots=True)
class _News:
    """What the engine has to tell at once: of requests, of its steps, and what its host knows of it."""

    told: Told
    traces: list[tuple[Any, ...]]
    load: LoadLike
    held: int
    step_began: float | None

    @classmethod
    def of(cls, host: EngineThread, told: Told, traces: list[StepTrace]) -> "_News":
        return cls(told, [packed(trace) for trace in traces], host.load(), host.held, host.step_began)


@dataclass(frozen=True, slots=True)
class _Died:
    error: str


class EngineProcess:
    """A ``Host``. The constructor starts the process, which begins to build its engine.

    Args:
        make: what makes the engine there, in a thread; a function that can be pickled.
    """

    def __init__(self, make: Callable[[], Backend]) -> None:
        self.feed = Feed()
        self._pipe, theirs = multiprocessing.Pipe()
        # A fork would have this process' threads' locks, and could not use the GPU.
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=run, args=(theirs, make), name="engine", daemon=True)
        self._process.start()
        theirs.close()
        # Whatever way this process ends.
        atexit.register(self.kill)
        self._news = _News([], [], Load(0, 0, 0, 0), 0, None)
        self._outgoing: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._heard = math.inf
        self._stopping = False
        self._deliver: Callable[[Told], None] = lambda told: None
        self._died: Callable[[str], None] = lambda error: None

    def ready(self) -> "_About":
        """Wait for the engine.

        Raises:
            OptimusError: why there is none.
        """
        try:
            about = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise OptimusError(f"the engine's process ended with exit code {self._process.exitcode}") from None
        if isinstance(about, OptimusError):
            raise about
        assert isinstance(about, _About)
        self._news = replace(self._news, load=about.load)
        return about

    def backend(self, tokenizer: Tokenizer) -> Backend:
        """What ``create_app`` serves, once the engine is ready.

        Raises:
            OptimusError: as ``ready``.
        """
        about = self.ready()
        return Backend(self, Prompter(tokenizer, about.rules), about.facts, about.shift)

    def kill(self) -> None:
        self._process.kill()

    @property
    def step_began(self) -> float | None:
        # All processes of a machine have the same clock.
        silent = time.monotonic() - self._heard > SILENT_S
        return self._heard if silent else self._news.step_began

    @property
    def held(self) -> int:
        return self._news.held

    def start(self, deliver: Callable[[Told], None], died: Callable[[str], None]) -> None:
        self._deliver, self._died = deliver, died
        self._heard = time.monotonic()
        for work in (self._write, self._read):
            threading.Thread(target=work, name=f"engine{work.__name__}", daemon=True).start()

    def put(self, message: Message) -> None:
        self._stopping = self._stopping or isinstance(message, Stop)
        self._outgoing.put(message)

    def load(self) -> LoadLike:
        return self._news.load

    def join(self, timeout_s: float | None = None) -> None:
        self._process.join(timeout_s)
        self.kill()

    def _write(self) -> None:
        # The reader tells of a process that is gone.
        with contextlib.suppress(OSError):
            while True:
                message = self._outgoing.get()
                # Here rather than in the event loop: a long prompt takes a while.
                self._pipe.send(Asked.of(message.request) if isinstance(message, Add) else message)

    def _read(self) -> None:
        try:
            while True:
                self._hear(self._pipe.recv())
        except (EOFError, OSError):
            self._heard, self._news = math.inf, replace(self._news, step_began=None)
            if not self._stopping:
                self._process.join(1.0)
                error = f"the engine's process ended with exit code {self._process.exitcode}"
                logger.error("%s: this server must be restarted", error.capitalize())
                self._died(error)

    def _hear(self, news: _News | _Died) -> None:
        self._heard = time.monotonic()
        if isinstance(news, _Died):
            self._died(news.error)
            return
        self._news = news
        # In this order: whoever has seen a request's end has all its steps.
        for trace in news.traces:
            self.feed.publish(unpacked(trace))
        if news.told:
            self._deliver(news.told)


def run(pipe: Connection, make: Callable[[], Backend]) -> None:
    """What the process does: build the engine, say so, and be its host until it is told to stop or left alone."""
    # Ctrl-C and SIGTERM are for the server, which tells this process when to stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        backend = make()
    except OptimusError as error:
        pipe.send(error)
        return
    host = backend.host
    assert isinstance(host, EngineThread)
    outgoing: queue.SimpleQueue[Told | _Died | None] = queue.SimpleQueue()
    traces = host.feed.subscribe(UNREAD)

    def write() -> None:
        # Nobody may be left to read.
        with contextlib.suppress(OSError):
            while True:
                news: Told | _Died | None = []
                with contextlib.suppress(queue.Empty):
                    news = outgoing.get(timeout=BEAT_S)
                if news is None:
                    return
                # Packed here: the engine's thread has a step to schedule.
                pipe.send(news if isinstance(news, _Died) else _News.of(host, news, traces.drain()))

    calm_collector()
    pipe.send(_About(backend.prompter.rules, backend.facts, backend.shift, host.load()))
    writer = threading.Thread(target=write, name="engine_write", daemon=True)
    writer.start()
    host.start(outgoing.put, lambda error: outgoing.put(_Died(error)))
    try:
        message = None
        while not isinstance(message, Stop):
            message = pipe.recv()
            host.put(Add(message.request()) if isinstance(message, Asked) else message)
        host.join()
        outgoing.put(None)
        writer.join()
    except EOFError:
        # The server is gone, and nothing in a step is worth waiting for.
        os._exit(1)
