"""What the API promises under load, measured: ``python -m tests.api.prove COMMAND``.

The tests run these in small; by hand they run at full size:

    streams --seconds 30    256 streams of an engine with 100 steps a second: order, and what is added to their latency
"""

import argparse
import contextlib
import json
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optimus_server.serve import Drain, Server
from optimus_server.store.migrate import migrate
from optimus_server.store.session import log_url
from optimus_server.text.tokenizer import Tokenizer
from tests import web
from tests.store.samples import recording

READERS = Path(__file__).with_name("readers.py")
LETTERS = string.ascii_lowercase
MESSAGES = [{"role": "user", "content": "x"}]


@dataclass(frozen=True)
class Route:
    """Where to ask, and how to find the texts in the answer."""

    path: str
    body: Callable[[int], dict[str, Any]]
    pattern: str


ROUTES = {
    "tgi": Route(
        "/generate_stream", lambda n: {"inputs": "x", "parameters": {"max_new_tokens": n}}, r'"text":"([a-z])"'
    ),
    "chat": Route(
        "/v1/chat/completions",
        lambda n: {"messages": MESSAGES, "max_tokens": n, "stream": True},
        r'"content":"([a-z])"',
    ),
}


class Letters:
    """A script that is not written out: so many steps, each the next letter, then the end."""

    def __init__(self, ids: list[int], steps: int) -> None:
        self._ids, self._left, self._next = ids, steps + 1, 0

    def __bool__(self) -> bool:
        return self._left > 0

    def pop(self, first: int) -> tuple[int]:
        self._left -= 1
        self._next += 1
        return (self._ids[(self._next - 1) % 26],) if self._left else (web.END,)


class PacedEngine(web.ScriptedEngine):
    """Every request gets the next letter in each step, so many steps a second.

    A step first waits, as for a device: without the GIL, and until the time of the step has come.

    Attributes:
        times: when each step ended.
        began: request -> number of its first step.
        worked_s: CPU time of the engine's thread.
    """

    def __init__(self, tokenizer: Tokenizer, steps: int, rate: float) -> None:
        super().__init__(lambda request: [])
        self._letters = [tokenizer.encode(letter)[0] for letter in LETTERS]
        self._steps = steps
        self.times = array("d")
        self.began: dict[str, int] = {}
        self.worked_s = 0.0
        self._period = 1 / rate
        self._due = 0.0

    def add(self, request: Any) -> None:
        self.live[request.id] = (request, cast("web.Steps", Letters(self._letters, self._steps)))
        self.began[request.id] = len(self.times)

    def step(self) -> list[Any]:
        self._due = max(time.monotonic(), self._due + self._period)
        time.sleep(max(0.0, self._due - time.monotonic()))
        events = super().step()
        self.times.append(time.time())
        self.worked_s = time.thread_time()
        return events


@dataclass(frozen=True)
class Streamed:
    """What the readers saw.

    Attributes:
        delays: seconds from the end of its step to its arrival, of every event.
        rate: steps a second.
        cpu_s: of the server's process without the engine's thread.
    """

    delays: NDArray[np.float64]
    rate: float
    cpu_s: float

    def __str__(self) -> str:
        p50, p90, p99, worst = np.quantile(self.delays, [0.5, 0.9, 0.99, 1]) * 1e3
        return (
            f"{len(self.delays)} events at {self.rate:.1f} steps/s: added latency median {p50:.1f} ms, "
            f"p90 {p90:.1f} ms, p99 {p99:.1f} ms, worst {worst:.1f} ms; "
            f"server {self.cpu_s / len(self.delays) * 1e6:.1f} us of CPU an event"
        )


@contextlib.contextmanager
def server(steps: int, rate: float, streams: int) -> Iterator[web.Live]:
    """As ``optimus serve`` runs it, in a thread."""
    tokenizer = Tokenizer(web.small_tokenizer())
    engine = PacedEngine(tokenizer, steps, rate)
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.create_server(("127.0.0.1", 0)) as listener,
        contextlib.ExitStack() as held,
    ):
        migrate(log_url(f"{directory}/log.db"))
        recorder = held.enter_context(recording(f"{directory}/log.db"))
        app = web.application(
            engine, tokenizer, rule={"max_total_tokens": 10**6}, recorder=recorder, max_concurrent_requests=streams
        )
        started = threading.Event()
        running = Server(app, Drain(app.state.desk.service, 10), started.set)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        assert started.wait(10)
        try:
            yield web.Live(f"http://127.0.0.1:{listener.getsockname()[1]}", engine, app.state.desk.service)
        finally:
            running.should_exit = True
            thread.join()


def read(live: web.Live, route: Route, streams: int, steps: int) -> list[NDArray[np.float64]]:
    """Open streams, read them to their ends, and check that each got all its letters in order; when they came."""
    port = live.url.rsplit(":", 1)[1]
    command = [
        sys.executable,
        READERS,
        port,
        route.path,
        json.dumps(route.body(steps + 1)),
        route.pattern,
        str(streams),
    ]
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    wanted = (LETTERS * (steps // 26 + 1))[:steps].encode()
    found = []
    for _ in range(streams):
        (count,) = np.frombuffer(raw[:8], np.int64)
        assert raw[8 : 8 + count] == wanted, f"{count} events of {steps}, or not in order"
        found.append(np.frombuffer(raw[8 + count : 8 + 9 * count]))
        raw = raw[8 + 9 * count :]
    assert not raw
    return found


def streams(route: Route, *, count: int, seconds: float, rate: float = 100) -> Streamed:
    """So many streams at once."""
    steps = int(seconds * rate)
    with server(steps, rate, count) as live:
        engine, before = live.engine, time.process_time()
        arrived = read(live, route, count, steps)
        cpu_s = time.process_time() - before - engine.worked_s
        ended = np.array(engine.times)
        delays = [at - ended[engine.began[f"s{i}"] :][:steps] for i, at in enumerate(arrived)]
        assert not live.service._mailboxes
        web.wait_for(lambda: live.service.idle)
    return Streamed(np.concatenate(delays), (len(ended) - 1) / (ended[-1] - ended[0]), cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.api.prove")
    commands = parser.add_subparsers(dest="command", required=True)
    streaming = commands.add_parser("streams")
    streaming.add_argument("--route", choices=ROUTES, default="tgi")
    for command in (streaming,):
        command.add_argument("--streams", type=int, default=256)
        command.add_argument("--seconds", type=float, default=30)
        command.add_argument("--rate", type=float, default=100, help="steps a second")
    args = parser.parse_args()
    match args.command:
        case "streams":
            print(streams(ROUTES[args.route], count=args.streams, seconds=args.seconds, rate=args.rate))


if __name__ == "__main__":
    main()
