import asyncio
import time
from itertools import pairwise
from random import Random

import pytest

from optimus_server.bench.client import Recording, clock
from optimus_server.bench.load import Watch, closed_loop, open_loop
from optimus_server.bench.questions import FileQuestion

QUESTIONS = [FileQuestion("t", str(number)) for number in range(40)]


class Server:
    """Answers after a pause, and remembers how many requests it had at once."""

    def __init__(self, pause_s):
        self.pause_s, self.now, self.most = pause_s, 0, 0

    async def __call__(self, question, due):
        self.now += 1
        self.most = max(self.most, self.now)
        sent = clock()
        await asyncio.sleep(self.pause_s)
        self.now -= 1
        return Recording(question, due, sent)


def test_a_closed_loop_keeps_its_clients_busy():
    server = Server(0.002)
    recordings = asyncio.run(closed_loop(server, QUESTIONS, 8))
    assert server.most == 8
    assert sorted(int(r.question.inputs) for r in recordings) == list(range(40))
    assert all(r.due <= r.sent for r in recordings)


def test_an_open_loop_arrives_by_its_own_clock():
    """A server that takes far longer than a gap does not slow it down, and gaps are the seed's exponential ones."""
    server = Server(0.3)
    recordings = asyncio.run(open_loop(server, QUESTIONS, 200.0, seed=5))
    assert server.most > 20
    rng = Random(5)
    gaps = [rng.expovariate(200.0) for _ in QUESTIONS]
    due = [r.due for r in recordings]
    assert [after - before for before, after in pairwise(due)] == pytest.approx(gaps[1:])
    assert all(r.sent >= r.due for r in recordings)


async def watched(work):
    async with Watch() as watch:
        await work
    return watch.report([Recording(QUESTIONS[0], due=1.0, sent=1.001)])


def test_a_client_that_idles_is_not_saturated():
    report = asyncio.run(watched(asyncio.sleep(0.2)))
    assert report["busy"] < 0.5
    assert report["sent_late_p99_ms"] == pytest.approx(1.0)


def test_a_client_that_computes_says_so():
    async def compute():
        for _ in range(4):
            until = time.perf_counter() + 0.06
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)

    report = asyncio.run(watched(compute()))
    assert report["loop_lag_p99_ms"] > 40
    assert "its event loop" in report["saturated"]


def test_late_requests_are_noticed():
    watch = Watch()
    watch._busy = 0.95
    report = watch.report([Recording(QUESTIONS[0], due=1.0, sent=1.5)])
    assert report["saturated"] == "95% of a core, requests sent 500 ms late"
