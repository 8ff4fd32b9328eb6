"""Many clients at once: order, leaks, overload. ``--streams``, ``--seconds`` and ``--leavers`` make it long."""

import asyncio
import json
import random
import statistics
import time

import pytest

from tests.api import prove
from tests.web import wait_for


def post(path, body):
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%s" % (len(data), data)


async def read_all(port, request):
    """Everything one client gets, piece by piece, with the time of each piece."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    pieces = []
    while piece := await reader.read(1 << 16):
        pieces.append((time.monotonic(), piece))
    writer.close()
    return pieces


def port_of(live):
    return int(live.url.rsplit(":", 1)[1])


@pytest.mark.parametrize("route", prove.ROUTES)
def test_every_stream_gets_every_event_in_order(route, pytestconfig):
    """How late they are, ``python -m tests.api.prove streams`` asserts: that needs a quiet machine."""
    streams, steps = pytestconfig.getoption("streams"), int(pytestconfig.getoption("seconds") * 100)
    found = prove.streams(route, count=streams, steps=(steps, steps))
    assert (found.streams, found.events) == (streams, streams * steps)
    print(found)


def test_streams_that_follow_each_other_hold_their_order(pytestconfig):
    found = prove.streams("tgi", count=20, steps=(5, 50), seconds=pytestconfig.getoption("seconds"))
    assert found.streams > 20


def test_clients_that_leave_at_any_moment_leave_nothing_behind(real, pytestconfig):
    rng = random.Random(4)
    bodies = [
        post("/generate_stream", {"inputs": "hello", "parameters": {"max_new_tokens": 300}}),
        post("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 300, "best_of": 2, "do_sample": True}}),
        post("/v1/completions", {"prompt": ["hello", "x"], "max_tokens": 300, "stream": True, "n": 2}),
        post("/v1/responses", {"input": "hi", "stream": True, "diffusion": {"events": "steps"}}),
    ]

    async def rude():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(real))
            request = rng.choice(bodies)
            writer.write(request[: rng.randrange(len(request))] if rng.random() < 0.1 else request)
            async with asyncio.timeout(rng.random() * 0.1):
                await reader.read(rng.randrange(1, 3000))
        except TimeoutError:
            pass
        if rng.random() < 0.5:
            writer.transport.abort()
        writer.close()

    async def main():
        for _ in range(pytestconfig.getoption("leavers") // 20):
            await asyncio.gather(*(rude() for _ in range(20)))

    asyncio.run(main())
    wait_for(lambda: real.service.idle and not real.engine.busy, 20)
    assert not real.service._mailboxes
    assert not real.service.traces._followers
    assert real.service.queued_tokens == 0
    wait_for(lambda: not real.service._permits.reserved)
    real.engine.check()
    load = real.service.load()
    assert (load.running, load.waiting, load.free_pages) == (0, 0, load.pages)


def test_overload_is_refused_at_once_and_harms_nobody():
    """Ten times as many clients as permits: those inside keep their pace, the others hear it soon.

    The 99th percentiles need a machine to themselves: ``python -m tests.api.prove overload``.
    """
    found = prove.overload(count=16, steps=200)
    assert len(found.refused) == 80
    assert statistics.median(found.refused) < prove.MAX_REFUSAL_S
    assert found.crowded.quantile(0.5) < found.alone.quantile(0.5) + 20


@pytest.mark.parametrize("path", ["/livez", "/health"])
def test_health_answers_among_many_streams(scripted, path):
    live = scripted(script=lambda request: [(65,)] * 100, step_s=0.005)
    body = {"inputs": "x"}

    async def main():
        readers = [asyncio.create_task(read_all(port_of(live), post("/generate_stream", body))) for _ in range(40)]
        await asyncio.to_thread(wait_for, lambda: len(live.engine.live) == 40, 10)
        status = await asyncio.to_thread(lambda: live.get(path).status_code)
        await asyncio.gather(*readers)
        return status

    assert asyncio.run(main()) == 200
