"""What the admin pages cost and how fast they answer, measured: ``python -m tests.admin.prove COMMAND``.

The tests run these in small; by hand they run at full size, on a machine with nothing else to do:

    pages --readers 20      step times of an engine under load, with so many open live pages and without, in turns
    million                 each question of the pages to a log of 1,000,000 requests (--file keeps it)
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.web import Live, listening, wait_for

ENDLESS = {"max_new_tokens": 1500, "temperature": 50.0, "do_sample": True, "diffusion": {"chunk": 8}}
"""Nonsense, drawn almost evenly: hundreds of steps."""


@dataclass(frozen=True)
class Cost:
    """Step times with pages open over those without, one ratio a pair of phases.

    Attributes:
        wall: by the clock, what requests see.
        cpu: of the engine's thread alone.
        loop: cores that the rest of the process used, with pages less without.
        bytes_s: what one page was sent in a second.
    """

    wall: list[float]
    cpu: list[float]
    loop: list[float]
    bytes_s: float


def page_cost(live: Live, *, readers: int, pairs: int, seconds: float, rows: int) -> Cost:
    """Keep so many requests running, and open and close pages in turns."""
    wall: list[float] = []
    cpu: list[float] = []
    step = live.engine.step

    def timed(*args: Any) -> Any:
        began, worked = time.perf_counter(), time.thread_time()
        events = step(*args)
        wall.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - worked)
        return events

    def phase(pages: Pages, count: int) -> tuple[float, float, float]:
        pages.open(count)
        wait_for(lambda: live.app.state.office.open_pages == count)
        wall.clear()
        cpu.clear()
        began, worked = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        elsewhere = time.process_time() - worked - sum(cpu)
        return statistics.median(wall), statistics.median(cpu), elsewhere / (time.perf_counter() - began)

    live.engine.step = timed
    cost = Cost([], [], [], 0.0)
    received = open_s = 0.0
    try:
        with loaded(live, rows), Pages(live.url) as pages:
            for pair in range(pairs + 1):
                # The second phase of a pair follows the first at once, and which of the two has the pages takes turns.
                found = {}
                for opened in (pair % 2 == 0, pair % 2 == 1):
                    found[opened] = phase(pages, readers if opened else 0)
                    if opened:
                        received, open_s = received + pages.received(), open_s + seconds
                # The first pair warms up.
                if pair:
                    cost.wall.append(found[True][0] / found[False][0])
                    cost.cpu.append(found[True][1] / found[False][1])
                    cost.loop.append(found[True][2] - found[False][2])
    finally:
        live.engine.step = step
    return Cost(cost.wall, cost.cpu, cost.loop, received / open_s / max(1, readers))


@contextlib.contextmanager
def loaded(live: Live, rows: int) -> Iterator[None]:
    """So many requests at any time while the block runs."""
    over = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=live.url, timeout=120) as client:
            while not over.is_set():
                number += rows
                body = {"inputs": "x", "parameters": ENDLESS | {"seed": number}}
                client.post("/generate", json=body, headers={"x-request-id": f"load-{number}"})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(rows)]
    for thread in threads:
        thread.start()
    wait_for(lambda: live.engine.load().running == rows, 30)
    try:
        yield
    finally:
        over.set()
        while any(thread.is_alive() for thread in threads):
            for running in live.app.state.office.board.requests.shown():
                live.service.cancel(running["id"])
            time.sleep(0.05)


class Pages:
    """Readers of the live page's stream, in a process of their own: a browser is not on the server's machine."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("reader.py"), url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Pages":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def open(self, count: int) -> None:
        """As many as this are open from now on."""
        self._say(f"open {count}")

    def received(self) -> int:
        """Bytes since the last change."""
        return self._say("received")

    def _say(self, what: str) -> int:
        assert self._process.stdin
        assert self._process.stdout
        print(what, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


def questions(live: Live, *, rounds: int = 5) -> dict[str, float]:
    """Median milliseconds of each page that asks the log, as a browser waits for it."""
    with httpx.Client(base_url=live.url, timeout=60) as client:
        newest = live.app.state.office.log.requests(limit=1)[0]
        client_of = newest["client"]
        last = live.app.state.office.log.requests(limit=50)[-1]["id"]
        paths = {
            "last day": "/admin/requests",
            "last week": "/admin/requests?period=7d",
            "all times": "/admin/requests?period=all",
            "the page after": f"/admin/requests?period=all&before={last}",
            "failed": "/admin/requests?period=all&status=failed",
            "failed and slow": "/admin/requests?period=all&status=failed&min_ms=1e9",
            "a status that never was": "/admin/requests?period=all&status=503",
            "an end that never was": "/admin/requests?period=all&finish=cancelled",
            "a route that never was": "/admin/requests?period=all&endpoint=/v1/responses",
            "of a client, none so slow": f"/admin/requests?period=all&client={client_of}&min_ms=1e9",
            "all filters, none left": f"/admin/requests?period=all&client={client_of}&status=200&finish=length"
            "&endpoint=/generate&min_ms=1e9",
            "none so slow": "/admin/requests?period=all&min_ms=1e9",
            "one request": f"/admin/requests/{newest['request_id']}",
            "its replay": f"/admin/replay/{newest['id']}",
            "a request that is not there": "/admin/requests/nobody",
            "what operators did": "/admin/audit",
            "live": "/admin",
        }
        return {name: statistics.median(_spent(client, path) for _ in range(rounds)) for name, path in paths.items()}


def first_rows(live: Live) -> float:
    """Milliseconds to the first rows of a CSV of everything."""
    began = time.perf_counter()
    with httpx.stream("GET", live.url + "/admin/requests.csv?period=all") as response:
        lines = response.iter_lines()
        assert next(lines).startswith("id,")
        assert next(lines)
        return (time.perf_counter() - began) * 1e3


def _spent(client: httpx.Client, path: str) -> float:
    began = time.perf_counter()
    response = client.get(path)
    assert response.status_code in (200, 404), response.text
    return (time.perf_counter() - began) * 1e3


@contextlib.contextmanager
def served(place: Path) -> Iterator[Live]:
    """A server on a log, with an engine that does nothing."""
    from optimus_server.text.tokenizer import Tokenizer
    from tests import web
    from tests.store.samples import recording

    engine = web.ScriptedEngine(lambda request: [(web.END,)])
    with recording(str(place), name="server") as recorder:
        app = web.application(engine, Tokenizer(web.small_tokenizer()), recorder=recorder)
        with listening(app, engine) as live:
            yield live


@contextlib.contextmanager
def demo(rows: int) -> Iterator[Live]:
    """The demo model, as it is served."""
    from optimus_server.app import create_app
    from optimus_server.backend import build_backend
    from optimus_server.settings import Settings

    settings = Settings(max_batch_size=rows, no_playground=True, no_profile=True)
    backend = build_backend(settings)
    with listening(create_app(settings, backend), backend.host.engine) as live:
        yield live


def shown(name: str, values: list[float], digits: int = 4) -> str:
    low, median, high = statistics.quantiles(values, n=4)
    return f"{name}: median {median:.{digits}f}, quartiles {low:.{digits}f} and {high:.{digits}f}"


def million(place: Path, count: int) -> None:
    from tests.store.prove import fill

    if not place.exists():
        fill(place, count, now_us=time.time_ns() // 1000)
    print(f"{count} requests, {place.stat().st_size / 2**20:.0f} MiB")
    with served(place) as live:
        for name, spent in questions(live).items():
            print(f"{spent:8.1f} ms  {name}")
        print(f"{first_rows(live):8.1f} ms  the first rows of a CSV of everything")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.admin.prove")
    commands = parser.add_subparsers(dest="command", required=True)
    pages = commands.add_parser("pages")
    pages.add_argument("--readers", type=int, default=20, help="0 shows what the machine itself makes of it")
    pages.add_argument("--pairs", type=int, default=20)
    pages.add_argument("--seconds", type=float, default=3.0, help="of each phase")
    pages.add_argument("--rows", type=int, default=8, help="requests at any time")
    asking = commands.add_parser("million")
    asking.add_argument("--requests", type=int, default=1_000_000)
    asking.add_argument("--file", type=Path, help="keep the log here, and use it if it is there")
    args = parser.parse_args()
    match args.command:
        case "pages":
            with demo(args.rows) as live:
                cost = page_cost(live, readers=args.readers, pairs=args.pairs, seconds=args.seconds, rows=args.rows)
            print(shown("step time by the clock, with pages over without", cost.wall))
            print(shown("step time, engine thread's CPU, with pages over without", cost.cpu))
            print(shown("cores the pages took", cost.loop))
            print(f"{cost.bytes_s / 1e3:.1f} kB/s to each page")
        case "million":
            with tempfile.TemporaryDirectory() as directory:
                million(args.file or Path(directory) / "log.db", args.requests)


if __name__ == "__main__":
    main()
