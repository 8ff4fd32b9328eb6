"""Streams on the wire: writes, comments, errors after the first byte, readers who leave or stop reading."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import httpx
import pytest

from optimus_server.api import sse
from optimus_server.errors import GenerationFailed, OptimusError
from tests.web import payloads, spoken, wait_for

FOREVER = [(10, 11, 12)] * 100_000


def chunks_of(live, path, body):
    """The raw chunks of a chunked response, as the server wrote them."""
    host, port = live.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + data)
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    _, raw = raw.split(b"\r\n\r\n", 1)
    chunks = []
    while raw:
        size, raw = raw.split(b"\r\n", 1)
        chunks.append(raw[: int(size, 16)])
        raw = raw[int(size, 16) + 2 :]
    return [chunk for chunk in chunks if chunk]


def test_no_character_of_an_answer_breaks_a_line():
    text = "a\u2028b\u2029c\x85d\r\n\x0b\x1ce🙂"
    [line, *rest] = sse.event({"text": text}).decode().splitlines()
    assert json.loads(line.removeprefix("data: ")) == {"text": text}
    assert rest == [""]


@pytest.mark.parametrize("path", ["/generate_stream", "/v1/chat/completions"])
def test_all_tokens_of_a_step_are_one_write(scripted, tokenizer, path):
    live = scripted(script=lambda request: [(9, 10, 11), (12, 13, 14), (15,)], step_s=0.1)
    body = {"inputs": "x"} if "generate" in path else {"messages": [{"role": "user", "content": "x"}], "stream": True}
    writes = [payloads(write.decode()) for write in chunks_of(live, path, body)]
    if path == "/generate_stream":
        assert [len(write) for write in writes] == [3, 3, 1]
    else:
        # The role opens the first write; the last token, the reason and [DONE] are the third step's.
        assert [len(write) for write in writes] == [4, 3, 3]


def test_events_have_no_name_no_id_and_lf_only(scripted):
    live = scripted("hello")
    for path, end in (("/generate_stream", b""), ("/v1/completions", b"data: [DONE]\n\n")):
        raw = b"".join(chunks_of(live, path, {"inputs": "x"} if not end else {"prompt": "x", "stream": True}))
        assert b"\r" not in raw
        assert raw.endswith(end or b"}\n\n")
        assert (b"[DONE]" in raw) == bool(end)
        assert all(line.startswith(b"data: ") for line in raw.split(b"\n") if line)


def test_comments_keep_a_silent_stream_alive(scripted, monkeypatch):
    monkeypatch.setattr(sse, "PING_S", 0.05)
    live = scripted("hi", step_s=0.4)
    raw = b"".join(chunks_of(live, "/generate_stream", {"inputs": "x"})).decode()
    assert ": ping" in raw
    assert payloads(raw)[-1]["generated_text"] == "hi"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/generate_stream", {"inputs": "x"}, {"error_type": "generation"}),
        ("/v1/completions", {"prompt": "x", "stream": True}, {"type": "server_error"}),
    ],
)
def test_an_error_after_the_first_byte_is_an_event(scripted, path, body, expected):
    live = scripted(script=lambda request: FOREVER, step_s=0.01)
    with httpx.stream("POST", live.url + path, json=body, timeout=10) as response:
        assert response.status_code == 200
        text = ""
        for part in response.iter_text():
            text += part
            live.engine.explode = True
    events = payloads(text)
    if path == "/v1/completions":
        assert events.pop() == "[DONE]"
        events[-1] = events[-1]["error"]
    assert expected.items() <= events[-1].items()
    assert "script says so" in str(events[-1])
    assert live.get("/health").status_code == 503
    assert live.post("/generate", {"inputs": "x"}).status_code == 500


def test_a_reader_who_leaves_frees_everything_within_a_second(scripted):
    live = scripted(script=lambda request: FOREVER, step_s=0.005)
    with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "x"}, timeout=10) as response:
        parts = response.iter_bytes()  # without a name it would be collected, and close the response
        next(parts)
        assert live.service.permits_taken == 1
    wait_for(lambda: live.engine.ended and live.service.idle and not live.engine.busy, 1.0)
    assert live.engine.ended[0][1] == "cancelled"


def test_a_client_who_leaves_before_the_answer_frees_everything_within_a_second(scripted):
    live = scripted(script=lambda request: FOREVER, step_s=0.005)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(live.url + "/generate", json={"inputs": "x"}, timeout=0.3)
    wait_for(lambda: live.engine.ended and live.service.idle and not live.engine.busy, 1.0)


@pytest.mark.parametrize(
    ("script", "reason"),
    [([tuple(range(10, 210))] * 10_000, "cancelled"), ([tuple(range(10, 210)) * 500], "length")],
    ids=["on the way", "at the end"],
)
def test_a_reader_who_stops_reading_is_dropped(scripted, monkeypatch, caplog, script, reason):
    monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0.3)
    live = scripted(script=lambda request: script, step_s=0.002)
    host, port = live.url.removeprefix("http://").split(":")
    data = b'{"inputs": "x"}'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(data), data)
        )
        wait_for(lambda: live.service.permits_taken == 1)
        wait_for(lambda: live.service.idle and live.engine.ended, 20)
        # Broken off: what the server has buffered is not waited for, and nothing is complained about.
        connection.settimeout(5)
        text = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                text += part
    assert not text.endswith(b"0\r\n\r\n")
    assert live.engine.ended[0][1] == reason
    assert [record.name for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


@pytest.mark.parametrize(
    ("path", "body", "family"),
    [("/generate", {"inputs": "x"}, "tgi"), ("/v1/completions", {"prompt": "x"}, "openai")],
)
def test_a_request_that_takes_too_long_ends(scripted, path, body, family):
    live = scripted(script=lambda request: FOREVER, step_s=0.005, request_timeout=0.3)
    response = live.post(path, body)
    assert response.status_code == 504
    error = response.json() if family == "tgi" else response.json()["error"]
    assert error["error_type" if family == "tgi" else "code"] == "timeout"
    assert error["error" if family == "tgi" else "message"] == "The request took longer than 0.3 s"
    wait_for(lambda: live.engine.ended and not live.engine.busy)
    events = live.events("/generate_stream", {"inputs": "x"})
    assert events[0]["token"]["id"] == 10
    assert events[-1]["error_type"] == "timeout"
    wait_for(lambda: not live.engine.busy)
    assert [reason for _, reason in live.engine.ended] == ["cancelled"] * 2


def test_health_answers_during_a_slow_step(scripted):
    live = scripted("x", step_s=2.0)
    thread = threading.Thread(target=live.post, args=("/generate", {"inputs": "x"}))
    thread.start()
    wait_for(lambda: live.engine.live)
    time.sleep(0.2)
    with httpx.Client(base_url=live.url) as client:
        times = []
        for _ in range(10):
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 0.05
    thread.join()


def test_many_streams_at_once(scripted, tokenizer):
    live = scripted(script=lambda request: spoken(tokenizer, "hello world " * 5, 2), step_s=0.002)
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(live.events("/generate_stream", {"inputs": "x"})))
        for _ in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [events[-1]["generated_text"] for events in results] == ["hello world " * 5] * 24


def test_bugs_are_hidden():
    sent, closed = [], []

    async def writes():
        yield b"one"
        yield b""
        raise ZeroDivisionError("inside")

    async def send(message):
        sent.append(message)

    async def main():
        held = contextlib.ExitStack()
        held.callback(lambda: closed.append(True))
        stream = sse.EventStream(writes(), held, {}, OptimusError.tgi, end=b"end")
        await stream({"type": "http", "method": "POST"}, asyncio.Event().wait, send)

    asyncio.run(main())
    start, first, error, last = sent
    assert (start["status"], first["body"], last["more_body"]) == (200, b"one", False)
    assert b"inside" not in error["body"]
    assert GenerationFailed.code.encode() in error["body"]
    assert error["body"].endswith(b"end")
    assert closed
