import asyncio

import pytest

from optimus_server.bench.client import Client, Target
from optimus_server.bench.questions import FileQuestion
from optimus_server.demo import MODELS
from optimus_server.demo.tasks import Example
from optimus_server.errors import SettingsError
from optimus_server.text.tokenizer import Tokenizer
from tests.web import wait_for

PROMPT = FileQuestion("t", "once")
CHAT = Example("t", "What is 1 + 1?", "2")


def test_bodies_of_openais_routes():
    target = Target("http://x", "openai", "name", 9, {"diffusion": {"chunk": 4}, "temperature": 0.5})
    route, body = target.body(CHAT)
    assert route == "/v1/chat/completions"
    assert body == {
        "model": "name",
        "messages": [{"role": "user", "content": "What is 1 + 1?"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "diffusion": {"chunk": 4},
    }
    route, body = target.body(PROMPT)
    assert (route, body["prompt"], "messages" in body) == ("/v1/completions", "once", False)


def test_bodies_of_tgis_route():
    target = Target("http://x", "tgi", "", 9, {"seed": 3}, Tokenizer.load(MODELS / "demo"))
    parameters = {"max_new_tokens": 9, "do_sample": False, "details": True, "seed": 3}
    assert target.body(PROMPT) == ("/generate_stream", {"inputs": "once", "parameters": parameters})
    assert target.body(CHAT)[1]["inputs"] == "<|user|>What is 1 + 1?<|assistant|>"
    with pytest.raises(SettingsError, match="--tokenizer"):
        Target("http://x", "tgi", "", 9).body(CHAT)


def ask(url, timeout_s=10.0, key=None):
    client = Client(Target(url, "openai", "m", 20), key, timeout_s)
    return asyncio.run(client.send(PROMPT, 0.0))


def test_a_recording_holds_what_came_and_when(scripted):
    live = scripted("the quick brown fox", step_s=0.02, per_step=1)
    recording = ask(live.url)
    assert recording.broken is None
    times = [when for when, _ in recording.pieces]
    assert recording.sent <= times[0]
    assert times == sorted(times)
    # four words and an end, a step each
    assert times[-1] - times[0] >= 0.06
    said = b"".join(piece for _, piece in recording.pieces)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b"data: [DONE]" in said


def test_the_key_is_sent(scripted):
    live = scripted("hello", api_key="secret")
    assert ask(live.url, key="secret").pieces[0][1].startswith(b"HTTP/1.1 200")
    assert ask(live.url, key="guess").pieces[0][1].startswith(b"HTTP/1.1 401")


def test_a_server_that_is_not_there_is_a_broken_recording():
    recording = ask("http://127.0.0.1:1")
    assert recording.pieces == []
    assert "1" in recording.broken


def test_a_request_that_takes_too_long_is_given_up_and_freed(scripted):
    live = scripted("the quick brown fox", step_s=0.2, per_step=1)
    recording = ask(live.url, timeout_s=0.3)
    assert recording.broken == "no complete answer in 0.3 s"
    wait_for(lambda: live.engine.ended)
    assert [reason for _, reason in live.engine.ended] == ["cancelled"]


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://x", "http://", "/v1"])
def test_a_url_that_is_none(url):
    with pytest.raises(SettingsError, match="--url must be"):
        Client(Target(url, "openai", "m", 20), None, 1.0)
