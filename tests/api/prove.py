"""What the API promises under load, measured: ``python -m tests.api.prove COMMAND``.

The tests run these in small; by hand they run at full size, and end with 1 if the promise is not kept:

    streams --seconds 30    256 streams of an engine with 100 steps a second: order, and what is added to their latency
    flat --seconds 600      such streams for so long, one after the other: the server's memory
    overload                64 streams, and ten times as many requests as could be taken in besides
    step --rounds 5         what 256 streams add to an engine's step, and what they would if it had its own process
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimus_server.engine.request import Params, Request
from optimus_server.text.tokenizer import Tokenizer
from tests import web
from tests.api.readers import Clock, Plan
from tests.api.split import remote
from tests.api.synthetic import SyntheticEngine, host_work, serving

MAX_P99_MS = 50.0
MAX_GROWTH = 0.02
"""Of the memory at the middle of the run, over its second half."""

MAX_REFUSAL_S = 0.05
MAX_STEP = 1.03
"""A step with streams over one without."""
DEVICE_S, HOST_S = 0.008, 0.002
"""Of a step: what the device takes, and the host before it."""

MESSAGES = [{"role": "user", "content": "x"}]
ROUTES = {
    "tgi": ("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": "STEPS"}}, r'"text":"([a-z])"'),
    "chat": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "max_tokens": "STEPS", "stream": True},
        r'"content":"([a-z])"',
    ),
}


@dataclass(frozen=True)
class Streamed:
    """What the readers saw, and what it took.

    Attributes:
        delays: delay in tenths of a millisecond -> number of events.
        rate: steps a second.
        cpu_us: of the server without the engine's thread, an event.
        rss_mib: the server's memory, once a second.
    """

    streams: int
    events: int
    delays: dict[int, int]
    rate: float
    cpu_us: float
    rss_mib: list[float]

    def quantile(self, share: float) -> float:
        """Delay in ms that so many of the events do not exceed."""
        ordered = sorted(self.delays.items())
        reached = np.cumsum([count for _, count in ordered])
        return (ordered[int(np.searchsorted(reached, share * reached[-1]))][0] + 1) / 10

    @property
    def growth(self) -> float:
        """How much the memory grew over the second half: the line through it, over its beginning."""
        half = self.rss_mib[len(self.rss_mib) // 2 :]
        slope, start = np.polyfit(np.arange(len(half)), half, 1)
        return float(slope * len(half) / start)

    def __str__(self) -> str:
        p50, p90, p99, worst = map(self.quantile, (0.5, 0.9, 0.99, 1.0))
        return (
            f"{self.streams} streams, {self.events} events, all in order, at {self.rate:.1f} steps/s; added latency "
            f"median {p50} ms, p90 {p90} ms, p99 {p99} ms, worst {worst} ms; {self.cpu_us:.1f} us of CPU an event"
        )


def streams(
    route: str,
    *,
    count: int,
    steps: tuple[int, int],
    seconds: float = 0.0,
    rate: float = 100.0,
    permits: int | None = None,
    meanwhile: Callable[[web.Live], None] = lambda live: None,
) -> Streamed:
    """Read so many streams at once.

    Args:
        steps: of the shortest and of the longest stream.
        seconds: how long to open another where one has ended; 0 opens each once.
        permits: of the server; default: twice the streams.
        meanwhile: called in a thread of its own.
    """
    tokenizer = Tokenizer(web.small_tokenizer())
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/clock"
        engine = SyntheticEngine(tokenizer, Clock(path, count, int(rate * (seconds + 120)) + steps[1]), rate=rate)
        with serving(engine, tokenizer, permits=permits or 2 * count) as live:
            before, began = time.process_time(), time.monotonic()
            threading.Thread(target=meanwhile, args=(live,)).start()
            told, rss_mib = _read(_plan(live, route, count, steps, seconds, path))
            cpu_s, took_s = time.process_time() - before - engine.worked_s, time.monotonic() - began
    delays = {int(delay): number for delay, number in told["delays"].items()}
    return Streamed(
        told["streams"], told["events"], delays, engine.steps / took_s, cpu_s / told["events"] * 1e6, rss_mib
    )


def _plan(live: web.Live, route: str, count: int, steps: tuple[int, int], seconds: float, clock: str) -> Plan:
    path, body, pattern = ROUTES[route]
    text = json.dumps(body).replace('"STEPS"', "STEPS")
    return Plan(int(live.url.rsplit(":", 1)[1]), path, text, pattern, count, seconds, *steps, clock)


def _read(plan: Plan) -> tuple[dict[str, Any], list[float]]:
    """What the readers found, and this process' memory while they read, in MiB."""
    command = [sys.executable, str(Path(__file__).with_name("readers.py")), json.dumps(asdict(plan))]
    rss_mib = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while True:
            try:
                told, _ = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                rss_mib.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
    assert process.returncode == 0
    return json.loads(told), rss_mib


@dataclass(frozen=True)
class Overloaded:
    """Streams with and without ten times as many requests as there is room for.

    Attributes:
        alone, crowded: the streams' delays without and with those requests.
        refused: how long each refusal took, seconds.
    """

    alone: Streamed
    crowded: Streamed
    refused: list[float]

    def __str__(self) -> str:
        took = [float(value) for value in np.quantile(self.refused, [0.5, 0.99, 1]) * 1e3]
        return (
            f"alone:   {self.alone}\ncrowded: {self.crowded}\n"
            f"{len(self.refused)} refused: median {took[0]:.1f} ms, p99 {took[1]:.1f} ms, worst {took[2]:.1f} ms"
        )


def overload(*, count: int, steps: int) -> Overloaded:
    """So many streams take all permits, while ten times as many requests a second come as could be taken in."""
    seconds = steps / 100
    alone = streams("tgi", count=count, steps=(steps, steps), permits=count)
    knocking: list[subprocess.Popen[bytes]] = []

    def knock(live: web.Live) -> None:
        """Once all permits are taken."""
        web.wait_for(lambda: live.service.permits_taken == count, 30)
        script = str(Path(__file__).with_name("knocking.py"))
        # They stop well before the first stream ends, so that all are refused.
        rate, lasting = str(10 * count / seconds), str(seconds * 0.5)
        command = [sys.executable, script, live.url.rsplit(":", 1)[1], rate, lasting]
        knocking.append(subprocess.Popen(command, stdout=subprocess.PIPE))

    crowded = streams("tgi", count=count, steps=(steps, steps), permits=count, meanwhile=knock)
    told, _ = knocking[0].communicate()
    found = json.loads(told)
    assert found["accepted"] == 0
    return Overloaded(alone, crowded, found["refused"])


def step_times(tokenizer: Tokenizer, place: str, *, count: int, steps: int) -> float:
    """The median time of a step with so many requests.

    Args:
        place: of the engine: ``alone``, without a server, in a ``thread`` beside one, in a thread that hands events on
            ``at once``, as ours does not, or in a ``process``.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as held:
        path = f"{directory}/clock"
        clock = Clock(path, count, steps * 10)
        engine: Any
        if place == "process":
            engine = held.enter_context(remote(path, DEVICE_S, HOST_S))
        else:
            work = host_work(HOST_S)
            engine = SyntheticEngine(tokenizer, clock, device_s=DEVICE_S, host=work, at_once=place == "at once")
        if place == "alone":
            engine.feed.subscribe(1)
            params = Params(max_new_tokens=steps + 1)
            for number in range(count):
                engine.add(Request(f"s{number}", (1,), params, block_size=8, shift=1))
            while engine.busy:
                engine.step(lambda: None)
        else:
            with serving(engine, tokenizer, permits=2 * count) as live:
                _read(_plan(live, "tgi", count, (steps, steps), 0.0, path))
        held.close()
        walls = list(engine.walls)
    # Requests come and go at both ends.
    return statistics.median(walls[len(walls) // 4 : -len(walls) // 4])


def compare_steps(*, count: int, steps: int, rounds: int) -> dict[str, float]:
    """Place -> median, over the rounds, of a step's time there over its time alone right before."""
    tokenizer = Tokenizer(web.small_tokenizer())
    ratios: dict[str, list[float]] = {"thread": [], "at once": [], "process": []}
    for _ in range(rounds):
        for place, found in ratios.items():
            alone = step_times(tokenizer, "alone", count=count, steps=steps)
            found.append(step_times(tokenizer, place, count=count, steps=steps) / alone)
    print({place: [round(ratio, 3) for ratio in found] for place, found in ratios.items()})
    return {place: statistics.median(found) for place, found in ratios.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.api.prove")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, seconds in (("streams", 30), ("flat", 600)):
        command = commands.add_parser(name)
        command.add_argument("--route", choices=ROUTES, default="tgi")
        command.add_argument("--streams", type=int, default=256)
        command.add_argument("--seconds", type=float, default=seconds)
    command = commands.add_parser("overload")
    command.add_argument("--streams", type=int, default=64)
    command.add_argument("--seconds", type=float, default=10)
    command = commands.add_parser("step")
    command.add_argument("--streams", type=int, default=256)
    command.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.command == "step":
        ratios = compare_steps(count=args.streams, steps=300, rounds=args.rounds)
        for place, ratio in ratios.items():
            print(f"{args.streams} streams, {place}: a step takes {ratio:.3f} of its time without them")
        return 0 if ratios["thread"] < MAX_STEP else 1
    if args.command == "overload":
        both = overload(count=args.streams, steps=int(args.seconds * 100))
        print(both)
        return 0 if both.crowded.quantile(0.99) < MAX_P99_MS and max(both.refused) < MAX_REFUSAL_S else 1
    if args.command == "streams":
        steps = int(args.seconds * 100)
        found = streams(args.route, count=args.streams, steps=(steps, steps))
    else:
        found = streams(args.route, count=args.streams, steps=(200, 800), seconds=args.seconds)
    print(found)
    kept = found.quantile(0.99) < MAX_P99_MS
    if args.command == "flat":
        # Ten minutes are rarely quiet on a machine that is shared; latency is for ``streams`` to promise.
        print("memory, MiB, each twentieth of the time:", *np.round(found.rss_mib[:: len(found.rss_mib) // 20], 1))
        print(f"growth over the second half: {found.growth:.2%}")
        kept = found.growth < MAX_GROWTH
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
