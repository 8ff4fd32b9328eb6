"""What the request log promises under stress, measured: ``python -m tests.store.prove COMMAND``.

The tests run these in small; by hand they run at full size:

    kill --rounds 50        kill -9 of a writer under load: the file is whole, and nothing older than a second is lost
    flood --seconds 60      2,000 requests a second: none dropped, and how long handing one over takes
    steps                   what the log costs an engine's step
    million                 questions to a log of 1,000,000 requests
"""

import argparse
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from optimus_server.store.migrate import migrate
from optimus_server.store.queries import Filter, Log
from optimus_server.store.records import StepRecord
from optimus_server.store.rows import rows_of
from optimus_server.store.session import log_url, writer
from optimus_server.store.tables import ChunkDecision, LoadSample, Request
from tests.store.cost import step_cost
from tests.store.samples import decision, load, recording, request

DAY_US = 86_400 * 10**6
GRACE_S = 1.0


def steps(count: int) -> tuple[StepRecord, ...]:
    """The steps of an ordinary answer."""
    return tuple(
        StepRecord(
            12.3 * i + i % 7, 100 + 3 * i, 116 + 3 * i, 16, 101 + 3 * i, 15, 3,
            (101 + 3 * i, 102 + 3 * i, 105 + 3 * i), (99, 100, 50 + i % 50), 8, 0, 12 + i * 37 % 11 / 10, "hold",
        )
        for i in range(count)
    )  # fmt: skip


def write(place: str, rate: int) -> None:
    """Submit requests for ever, and say of each when it was over; run in a process that will be killed."""
    trace = steps(40)
    with recording(place, name=f"{os.getpid()}") as recorder:
        began = time.monotonic()
        number = 0
        while True:
            due = int((time.monotonic() - began) * rate)
            while number < due:
                name, now_us = f"{os.getpid()}-{number}", time.time_ns() // 1000
                record = request(number, request_id=name, created_us=now_us, trace=trace)
                assert recorder.submit(record)
                print(record.request_id, time.monotonic(), flush=True)
                number += 1
            time.sleep(0.002)


@dataclass(frozen=True)
class Killed:
    """What one round found."""

    told: int
    owed: int
    lost: int
    integrity: str


def kill(place: Path, *, after_s: float, rate: int = 500) -> Killed:
    """Kill a writer and look at what is in the log."""
    migrate(log_url(str(place)))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.prove", "write", str(place), "--rate", str(rate)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout
    first = process.stdout.readline()
    time.sleep(after_s)
    died = time.monotonic()
    process.send_signal(signal.SIGKILL)
    lines = [first, *process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    told = [line.split() for line in lines if len(line.split()) == 2]
    owed = {name for name, ended in told if float(ended) < died - GRACE_S}
    with closing(sqlite3.connect(place)) as connection:
        (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        found = {name for (name,) in connection.execute("SELECT request_id FROM requests")}
    return Killed(len(told), len(owed), len(owed - found), integrity)


@dataclass(frozen=True)
class Flooded:
    """What handing records over was like."""

    submitted: int
    dropped: int
    stored: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


def flood(place: Path, *, seconds: float, rate: int = 2000) -> Flooded:
    """Submit so many requests a second, each with twenty steps, in bursts as an event loop would."""
    migrate(log_url(str(place)))
    trace = steps(20)
    taken = []
    with recording(str(place)) as recorder:
        began = time.perf_counter()
        count = 0
        while count < seconds * rate:
            while count < (time.perf_counter() - began) * rate:
                record = request(count, created_us=time.time_ns() // 1000, trace=trace)
                before = time.perf_counter()
                recorder.submit(record)
                taken.append(time.perf_counter() - before)
                count += 1
            time.sleep(0.001)
    cuts = statistics.quantiles(taken, n=100)
    with Log(str(place)) as log:
        stored = sum(group.requests for group in log.stats("endpoint"))
    return Flooded(count, recorder.counts().dropped, stored, cuts[49] * 1e3, cuts[98] * 1e3, max(taken) * 1e3)


def fill(place: Path, count: int, *, days: int = 30, now_us: int) -> None:
    """A log of so many requests, evenly over some days, with decisions and load samples."""
    migrate(log_url(str(place)))
    engine = writer(log_url(str(place)))
    rng = random.Random(1)
    with recording(str(place)) as recorder:
        privacy = recorder.privacy
    clients = [f"{rng.getrandbits(64):016x}" for _ in range(20)]
    answered = rows_of(request(), "one", privacy)
    span = days * DAY_US
    for start in range(0, count, 10_000):
        rows: dict[Any, list[dict[str, Any]]] = {kind: [] for kind, _ in answered}
        for number in range(start, min(start + 10_000, count)):
            created = now_us - span + int(span * (number + rng.random()) / count)
            key = f"{created:014x}{rng.getrandbits(32):08x}"
            total = rng.lognormvariate(6.5, 0.8)
            failed = rng.random() < 0.02
            changes = {
                "id": key, "request_id": f"{rng.getrandbits(128):032x}", "created_us": created, "total_ms": total,
                "client": rng.choice(clients), "endpoint": rng.choice(["/generate", "/v1/chat/completions"]),
                "status": 429 if failed else 200, "finish_reason": rng.choice(["length", "eos_token"]),
                "ttft_ms": rng.uniform(5, 50), "generated_tokens": rng.randrange(200), "prompt_hmac": rng.randbytes(32),
                "user_agent": "OpenAI/Python 2.1.0",
            }  # fmt: skip
            for kind, row in answered:
                rows[kind].append(row | (changes if kind is Request else {"request_id": key}))
        with engine.begin() as connection:
            for kind, values in rows.items():
                connection.execute(insert(kind), values)
    with engine.begin() as connection:
        _fill_samples(connection, count // 5, now_us)
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def _fill_samples(connection: Connection, count: int, now_us: int) -> None:
    """Decisions of the last day, and a load sample every second of it."""
    common = {"instance_id": "one"}
    shape = {field.name: getattr(decision(), field.name) for field in fields(decision())}
    times = [
        {"t_us": now_us - DAY_US + DAY_US * n // count, "batch": n % 64, "chunk_new": n % 32} for n in range(count)
    ]
    connection.execute(insert(ChunkDecision), [shape | common | values for values in times])
    shape = {field.name: getattr(load(), field.name) for field in fields(load())}
    seconds = [shape | common | {"t_us": now_us - second * 10**6} for second in range(min(count, 86_400))]
    connection.execute(insert(LoadSample), seconds)


def questions(place: Path, now_us: int, *, rounds: int = 5) -> dict[str, float]:
    """Median milliseconds of what the admin pages ask; a day is the longest window they have."""
    day = Filter(since_us=now_us - DAY_US)
    with Log(str(place)) as log:
        page = log.requests()
        some = page[-1]
        asked: dict[str, Callable[[], Any]] = {
            "newest requests": lambda: log.requests(),
            "the page after": lambda: log.requests(before=some["id"]),
            "failed": lambda: log.requests(Filter(failed=True)),
            "of a client": lambda: log.requests(Filter(client=some["client"])),
            "of a client, slow": lambda: log.requests(Filter(client=some["client"], min_ms=5000)),
            "slow, few": lambda: log.requests(Filter(min_ms=15_000)),
            "slow, none": lambda: log.requests(Filter(min_ms=1e9)),
            "status that never was": lambda: log.requests(Filter(status=503)),
            "finish that never was": lambda: log.requests(Filter(finish_reason="cancelled")),
            "one request": lambda: log.request(some["id"]),
            "one by x-request-id": lambda: log.request(some["request_id"]),
            "a day by hour": lambda: log.stats("hour", day),
            "a day by client": lambda: log.stats("client", day),
            "a day by status": lambda: log.stats("status", day),
            "chunks of 500 requests": lambda: log.chunks(day, newest=500),
            "decisions of two minutes": lambda: log.decisions(now_us - 120 * 10**6),
            "a day by reason": lambda: log.reasons(now_us - DAY_US),
            "load of a day": lambda: log.load(now_us - DAY_US, now_us),
        }
        return {name: statistics.median(_milliseconds(ask) for _ in range(rounds)) for name, ask in asked.items()}


def _milliseconds(ask: Callable[[], Any]) -> float:
    began = time.perf_counter()
    ask()
    return (time.perf_counter() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.store.prove")
    commands = parser.add_subparsers(dest="command", required=True)
    killing = commands.add_parser("kill")
    killing.add_argument("--rounds", type=int, default=50)
    flooding = commands.add_parser("flood")
    flooding.add_argument("--seconds", type=float, default=60)
    stepping = commands.add_parser("steps")
    stepping.add_argument("--pairs", type=int, default=60)
    asking = commands.add_parser("million")
    asking.add_argument("--requests", type=int, default=1_000_000)
    asking.add_argument("--file", type=Path, help="keep the log here, and use it if it is there")
    child = commands.add_parser("write")
    child.add_argument("place")
    child.add_argument("--rate", type=int, default=500)
    args = parser.parse_args()
    if args.command == "write":
        write(args.place, args.rate)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "log.db"
        match args.command:
            case "kill":
                rng = random.Random(0)
                for number in range(args.rounds):
                    print(number + 1, kill(place, after_s=rng.uniform(1.0, 3.0)), flush=True)
            case "flood":
                print(flood(place, seconds=args.seconds))
            case "steps":
                import torch

                from optimus_server.demo import MODELS

                torch.set_num_threads(1)
                for block, pairs in ((8, 5 * args.pairs), (40, args.pairs)):
                    cost = step_cost(MODELS / "demo", place, pairs=pairs, block=block)
                    print(
                        f"{cost.steps} steps of {cost.step_ms:.1f} ms with the log, as many without, {block} in turns:"
                    )
                    print(f"  CPU time of the engine's thread, with the log over without: {cost.cpu}")
                    print(f"  of it, telling of the step: {cost.told:.2%}")
                    print(f"  time by the clock: {cost.wall}", flush=True)
            case "million":
                now_us = 1_800_000_000_000_000
                place = args.file or place
                if not place.exists():
                    fill(place, args.requests, now_us=now_us)
                print(f"{place.stat().st_size / 2**20:.0f} MiB")
                for name, spent in questions(place, now_us).items():
                    print(f"{spent:8.1f} ms  {name}")


if __name__ == "__main__":
    main()
