"""Bodies that are not read, permits that are not had, and ids."""

import threading
import time

import httpx
import pytest

from tests.web import wait_for

FOREVER = [(10,)] * 100_000


@pytest.mark.parametrize(("path", "family"), [("/generate", "tgi"), ("/v1/chat/completions", "openai")])
def test_bodies_that_are_not_json(scripted, path, family):
    live = scripted(payload_limit=1000)
    cases = [
        ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "application/json"),
        ({"content": b"{}"}, 415, "Given: none"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "not valid JSON"),
        ({"content": b"\xff", "headers": {"content-type": "application/json; charset=utf-8"}}, 400, "not valid"),
        ({"content": b" " * 1001, "headers": {"content-type": "application/json"}}, 413, "<= 1000 bytes"),
        ({"content": iter([b" " * 600] * 2), "headers": {"content-type": "application/json"}}, 413, "1000 bytes"),
    ]
    for options, status, text in cases:
        response = httpx.post(live.url + path, **options)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert text in (error if family == "tgi" else error["message"])
    assert live.service.idle


def test_overload_is_refused_at_once(scripted):
    live = scripted(script=lambda request: FOREVER, step_s=0.01, max_concurrent_requests=2)
    leave = threading.Event()

    def reader():
        with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "x"}, timeout=10) as response:
            for _ in response.iter_bytes():
                if leave.is_set():
                    return

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(live.engine.live) == 2)
    paths = [("/generate", {"inputs": "x"}), ("/generate_stream", {"inputs": "x"}), ("/", {"inputs": "x"})]
    with httpx.Client(base_url=live.url) as client:
        client.get("/health")
        for path, body in paths:
            began = time.perf_counter()
            response = client.post(path, json=body)
            assert time.perf_counter() - began < 0.1
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert response.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
        response = client.post("/v1/completions", json={"prompt": "x"})
        assert (response.status_code, response.json()["error"]["type"]) == (429, "rate_limit_error")
    assert live.service.permits_taken == 2
    leave.set()
    for thread in threads:
        thread.join()
    wait_for(lambda: live.service.idle)


def test_refused_requests_give_their_permit_back(scripted):
    live = scripted(max_concurrent_requests=1)
    for _ in range(5):
        assert live.post("/generate", {"inputs": ""}).status_code == 422
        assert live.post("/generate_stream", {"inputs": ""}).status_code == 422
        assert live.post("/v1/chat/completions", {"messages": []}).status_code == 422
    assert live.post("/generate", {"inputs": "x"}).status_code == 200
    assert live.service.idle


def test_draining_refuses_with_retry_after(scripted):
    live = scripted()
    live.service.draining = True
    response = live.post("/generate", {"inputs": "x"})
    assert response.status_code == 503
    assert "retry-after" in response.headers


def test_request_ids(scripted):
    live = scripted()
    response = live.post("/generate", {"inputs": "x"}, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    assert live.engine.seen[-1].id == "mine-1"
    live.engine.step_s = 0.2
    threads = [
        threading.Thread(
            target=live.events, args=("/generate_stream", {"inputs": "x"}), kwargs={"headers": {"x-request-id": "twin"}}
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [request.id for request in live.engine.seen[-3:]]
    assert "twin" in ids
    assert len(set(ids)) == 3
    odd = live.get("/health", headers={"x-request-id": "x" * 200}).headers["x-request-id"]
    assert len(odd) == 32


def test_only_long_prompts_are_encoded_in_a_thread_of_their_own(scripted, monkeypatch):
    live, seen = scripted(), []
    prompter = live.app.state.desk.prompter
    encode = prompter.prompt

    def noted(ask):
        seen.append(threading.current_thread())
        return encode(ask)

    monkeypatch.setattr(prompter, "prompt", noted)
    chats = [[{"role": "user", "content": "x"}], [{"role": "user", "content": ""}] * 100]
    for messages in chats:
        live.post("/v1/chat/completions", {"messages": messages})
    for text in ("x", "x" * 5000):
        live.post("/generate", {"inputs": text})
    chat, empty_messages, short, long = seen
    assert chat is short
    assert short not in (empty_messages, long)
