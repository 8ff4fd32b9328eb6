"""The side channel: what it tells, whom, and that a slow reader harms nobody."""

import asyncio
import contextlib
import json
import threading
from types import SimpleNamespace

import httpx
import pytest

from optimus_server.api import telemetry
from tests.web import END, wait_for

PATH = "/v1/diffusion/events"


@contextlib.contextmanager
def listening(live, query="", **options):
    """The events of the channel, in a list that grows."""
    found, leave = [], threading.Event()

    def read():
        # A silent channel is left when the time for one read is over; keep-alive comments would take 15 s.
        with (
            contextlib.suppress(httpx.ReadTimeout),
            httpx.stream("GET", live.url + PATH + query, timeout=1.5, **options) as response,
        ):
            name = ""
            for line in response.iter_lines():
                if leave.is_set():
                    return
                if line.startswith("event: "):
                    name = line[7:]
                if line.startswith("data: "):
                    found.append(json.loads(line[6:]))
                    assert found[-1]["type"] == name

    thread = threading.Thread(target=read)
    thread.start()
    wait_for(lambda: found)
    try:
        yield found
    finally:
        leave.set()
        thread.join()


def of(found, kind):
    return [event for event in found if event["type"] == kind]


def test_a_request_from_its_start_to_its_end(scripted, tokenizer):
    live = scripted("hello big world", step_s=0.01)
    with listening(live) as found:
        response = live.post("/generate", {"inputs": "hi", "parameters": {"max_new_tokens": 60}})
        wait_for(lambda: of(found, "request_end"))
    name = response.headers["x-request-id"]
    assert found[0] == {"type": "hello", "v": 1, "model": "org/scripted", "types": sorted(telemetry.TYPES)}
    [start], [end] = of(found, "request_start"), of(found, "request_end")
    assert (start["request_id"], start["path"], start["max_new_tokens"]) == (name, "/generate", 60)
    assert start["prompt_tokens"] == len(tokenizer.encode("hi"))
    ids = [*tokenizer.encode("hello big world"), END]
    assert (end["request_id"], end["outcome"], end["generated_tokens"]) == (name, "eos_token", len(ids))
    steps = of(found, "step")
    assert [step["number"] for step in steps] == list(range(1, end["steps"] + 1))
    commits = [commit for step in steps for row in step["rows"] for commit in row["commit"]]
    assert [commit[:2] for commit in commits] == [[i, token] for i, token in enumerate(ids)]
    assert {row["request_id"] for step in steps for row in step["rows"]} == {name}
    [decision] = of(found, "decision")
    assert (decision["chunk"], decision["chunk_reason"], decision["chunk_before"]) == (3, "manual", None)
    load = of(found, "load")[0]
    assert {"running", "waiting", "kv_used", "queued_tokens", "permits"} <= set(load)
    assert (load["tokens_per_s"], load["step_ms"], load["chunk"]) == (0, None, None)
    kinds = [event["type"] for event in found if event["type"] != "load"]
    assert kinds.index("request_start") < kinds.index("step") < kinds.index("request_end")


def test_load_says_what_was_decoded_since_the_last_time(scripted):
    live = scripted("word " * 300, step_s=0.01, per_step=2, rule={"max_total_tokens": 2048})
    with listening(live, "?types=load") as found:
        live.post("/generate", {"inputs": "hi", "parameters": {"max_new_tokens": 200}})
        wait_for(lambda: found[-1].get("step_ms", 0) is None)
    busy = [load for load in of(found, "load") if load["steps"]]
    assert sum(load["steps"] for load in busy) == live.engine.steps
    for load in busy[1:-1]:
        assert load["tokens_per_s"] == pytest.approx(2 * load["steps"] / telemetry.LOAD_S, rel=0.3)
    assert all(load["step_ms"] > 0 and load["chunk"] == 3 for load in busy)


def test_filters(scripted):
    live = scripted("hello", step_s=0.005)
    with listening(live, "?types=request_end,step&request_id=mine") as mine:
        for name in ("other", "mine"):
            live.post("/generate", {"inputs": "hi"}, headers={"x-request-id": name})
        wait_for(lambda: of(mine, "request_end"))
    assert {event["type"] for event in mine[1:]} == {"step", "request_end"}
    assert {event["request_id"] for event in of(mine, "request_end")} == {"mine"}
    assert {row["request_id"] for step in of(mine, "step") for row in step["rows"]} == {"mine"}
    response = live.get(PATH + "?types=step,nonsense")
    assert response.status_code == 422
    assert "Given: nonsense" in response.json()["error"]["message"]


def test_the_key_is_needed(scripted):
    live = scripted(api_key="secret")
    assert live.get(PATH).status_code == 401
    with listening(live, "?types=load", headers={"authorization": "Bearer secret"}) as found:
        wait_for(lambda: of(found, "load"))


def test_a_listener_does_not_hold_up_a_drain_and_leaves_no_trace(scripted):
    live = scripted("hello")
    with listening(live):
        assert live.service.idle
        wait_for(lambda: len(live.service.traces._watchers) == 3)
        live.service.draining = True
        wait_for(lambda: len(live.service.traces._watchers) == 2)


def test_a_slow_reader_loses_the_oldest_and_is_told():
    async def main():
        desk = SimpleNamespace(prompter=None)
        channel = telemetry._Channel(desk, frozenset({"load"}), None)
        for i in range(telemetry.RING + 10):
            channel._put({"type": "load", "i": i})
        first, *rest = channel._take().decode().strip().split("\n\n")
        channel._put({"type": "load", "i": -1})
        return json.loads(first.split("data: ")[1]), len(rest), channel._take()

    first, rest, later = asyncio.run(main())
    assert first == {"type": "load", "i": 10, "dropped": 10}
    assert rest == telemetry.RING - 1
    assert b"dropped" not in later


@pytest.mark.parametrize("query", ["", "?types=decision"])
def test_leaving_is_noticed(scripted, query):
    live = scripted("hello", step_s=0.002)
    with listening(live, query):
        live.post("/generate", {"inputs": "x"})
    wait_for(lambda: len(live.service.traces._watchers) == 2)
