"""Bad input and rude clients against the real engine: nothing reaches it, nothing leaks, streams go on."""

import json
import random
import socket
import threading

import httpx

from tests.web import payloads, wait_for

PATHS = ["/generate", "/generate_stream", "/", "/v1", "/v1/chat/completions", "/v1/completions"]
FIELDS = [
    "inputs", "parameters", "messages", "prompt", "max_tokens", "temperature", "top_p", "top_k", "stop", "seed",
    "stream", "diffusion", "n", "max_new_tokens", "truncate", "details", "unknown", "stream_options", "model",
]  # fmt: skip
VALUES = [
    None, True, -1, 0, 1, 2**31, 2**64, -(2**70), 10**400, 0.5, -1e308, 1e-320, "", "x", "\x00", "\ud7ff", "🙂" * 50,
    "a" * 5000, [], [[]], {}, {"a": 1}, [None], ["x"] * 9, {"chunk": 10**9}, {"policy": "x"}, {"events": "steps"},
    [{"role": "user", "content": "x"}], [{"role": "x"}], [1, 2, 3], [10**9], {"max_new_tokens": -5},
    {"temperature": "hot"}, {"diffusion": {"chunk": 0}}, {"truncate": 10**12}, {"stop": [1]},
]  # fmt: skip
NOT_JSON = [
    b"",
    b"{",
    b"\xff\xfe",
    b'{"inputs": "\xc3\x28"}',
    b"[" * 5000,
    b"nul",
    b'{"inputs":"\\ud800"}',
    b"\x00" * 100,
]


def malformed(rng):
    """One bad request: path, body, headers."""
    path = rng.choice(PATHS)
    kind = rng.random()
    headers = {"content-type": "application/json"}
    if kind < 0.2:
        return path, rng.choice(NOT_JSON), headers
    if kind < 0.25:
        return path, b'{"inputs": "x"}', {"content-type": rng.choice(["text/plain", "", "application/xml"])}
    body = {name: rng.choice(VALUES) for name in rng.sample(FIELDS, rng.randint(0, 5))}
    # A field of every route is wrong for sure.
    body["parameters"] = {"max_new_tokens": 0}
    return path, json.dumps(body).encode(), headers


def test_malformed_requests_do_not_disturb_streams(real):
    request = {"inputs": "hello", "parameters": {"max_new_tokens": 400, "diffusion": {"chunk": 2}}}
    expected = payloads(httpx.post(real.url + "/generate_stream", json=request, timeout=60).text)
    results, started = [], threading.Barrier(9)

    def stream():
        with httpx.stream("POST", real.url + "/generate_stream", json=request, timeout=60) as response:
            parts = response.iter_text()
            text = next(parts)
            started.wait(30)
            results.append(payloads(text + "".join(parts)))

    threads = [threading.Thread(target=stream) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait(30)
    rng = random.Random(1)
    with httpx.Client(base_url=real.url, timeout=30) as client:
        for _ in range(500):
            path, body, headers = malformed(rng)
            response = client.post(path, content=body, headers=headers)
            assert 400 <= response.status_code < 500, (path, body, response.text)
            assert response.headers["content-type"] == "application/json"
            error = response.json()["error"]
            assert error["message"] if path.startswith("/v1/") else error
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for events in results:
        assert [event["token"]["id"] for event in events] == [event["token"]["id"] for event in expected]
    assert httpx.get(real.url + "/health").status_code == 200
    wait_for(lambda: real.service.idle and not real.engine.busy)
    real.engine.check()


def test_a_mask_in_a_prompt_is_an_ordinary_token(real):
    for body in ({"prompt": "a<|mask|>b"}, {"prompt": [1, 1, 1, 1, 1, 1, 1, 1, 1]}):
        response = httpx.post(real.url + "/v1/completions", json=body | {"max_tokens": 9}, timeout=30)
        assert response.json()["usage"]["completion_tokens"] <= 9


def test_disconnects_leak_nothing(real):
    rng = random.Random(2)
    host, port = real.url.removeprefix("http://").split(":")

    def rude(seed):
        order = random.Random(seed)
        path = order.choice(["/generate_stream", "/generate", "/v1/completions"])
        body = {"inputs": "hello", "parameters": {"max_new_tokens": 500}}
        if path.startswith("/v1"):
            body = {"prompt": "hello", "max_tokens": 500, "stream": order.random() < 0.5}
        data = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        raw = head.encode() + data
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(raw[: order.randint(1, len(raw))] if order.random() < 0.2 else raw)
            connection.settimeout(order.random() * 0.05)
            try:
                connection.recv(order.randint(1, 2000))
            except TimeoutError:
                return

    for _ in range(8):
        threads = [threading.Thread(target=rude, args=(rng.random(),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wait_for(lambda: real.service.idle and not real.engine.busy, 5)
    assert not real.service._mailboxes
    real.engine.check()
    load = real.service.load()
    assert (load.running, load.waiting, load.free_pages) == (0, 0, load.pages)
