"""The admin pages: who may see them, that text stays text, and that each knob reaches the engine."""

import json
import re
import threading

import httpx
import pytest

from optimus_server.api.admin import access
from tests.web import wait_for

TOKEN = "a long token"
EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def browser():
    """Opens /admin as a browser does, logged in where that is needed."""
    opened = []

    def start(live, token=None):
        client = httpx.Client(base_url=live.url, timeout=10)
        opened.append(client)
        if token:
            proof = proof_of(client.get("/admin/login").text)
            assert client.post("/admin/login", data={"proof": proof, "token": token}).status_code == 303
        return client

    yield start
    for client in opened:
        client.close()


def proof_of(page):
    return re.search(r'name="proof" value="(\w+)"', page)[1]


def act(client, path, **fields):
    return client.post(path, data={"proof": proof_of(client.get("/admin").text)} | fields)


def asking(live, name="mine", **parameters):
    body = {"inputs": EVIL, "parameters": {"max_new_tokens": 200} | parameters}
    thread = threading.Thread(target=lambda: live.post("/generate", body, headers={"x-request-id": name}))
    thread.start()
    return thread


def test_the_page_reads_without_scripts_and_trusts_nothing(scripted, browser):
    live = scripted("hello " * 60, step_s=0.02)
    client = browser(live)
    name = '<u>"id"</u>'
    thread = asking(live, name)
    wait_for(lambda: live.engine.steps > 3)
    response = client.get("/admin")
    page = response.text
    assert "&lt;u&gt;&#34;id&#34;&lt;/u&gt;" in page
    assert "<u>" not in page
    assert EVIL not in page
    assert "manual" in page
    assert "org/scripted" in page
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)
    assert not re.findall(r"(src|href)=.(https?:)?//", page)
    assert '<noscript><meta http-equiv="refresh"' in page
    assert act(client, "/admin/cancel", request_id=name).status_code == 303
    thread.join()
    assert live.engine.ended[0] == (name, "cancelled")
    for path in re.findall(r'(?:src|href)="(/admin/assets/[^"]+)', page):
        assert client.get(path).status_code == 200
    assert client.get("/admin/assets/base.html.j2").status_code == 404


def test_a_token_is_asked_for_and_the_cookie_is_kept_from_scripts(scripted, browser):
    live = scripted(admin_token=TOKEN, api_key="key of the API", hostname="0.0.0.0")
    client = browser(live)
    assert client.get("/admin").headers["location"] == "/admin/login"
    assert client.get("/admin/events").status_code == 403
    page = client.get("/admin/login")
    proof = proof_of(page.text)
    wrong = client.post("/admin/login", data={"proof": proof, "token": "wrong"})
    assert (wrong.status_code, "That is not the token" in wrong.text) == (403, True)
    assert client.post("/admin/knobs", data={"proof": proof, "chunk": "4"}).status_code == 403
    right = client.post("/admin/login", data={"proof": proof, "token": TOKEN})
    assert right.status_code == 303
    cookie = right.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/admin"))
    page = client.get("/admin").text
    assert TOKEN not in page
    assert "key of the API" not in page
    assert act(client, "/admin/logout").status_code == 303
    assert client.get("/admin").headers["location"] == "/admin/login"


def test_a_form_needs_the_proof_of_its_own_session(scripted, browser):
    live = scripted()
    one, other = browser(live), browser(live)
    mine, foreign = proof_of(one.get("/admin").text), proof_of(other.get("/admin").text)
    for proof in ("", "nonsense", foreign):
        assert one.post("/admin/knobs", data={"proof": proof, "chunk": "4"}).status_code == 403
    assert httpx.post(live.url + "/admin/knobs", data={"proof": mine, "chunk": "4"}).status_code == 403
    assert one.post("/admin/knobs", json={"proof": mine}).status_code == 415
    assert one.post("/admin/knobs", data={"proof": mine, "chunk": "4" * 9000}).status_code == 413
    assert live.engine.steered == []
    assert one.post("/admin/knobs", data={"proof": mine, "chunk": "4"}).status_code == 303
    wait_for(lambda: live.engine.steered == [(4, None)])


@pytest.mark.parametrize("cookie", ["operator", "operator.9999999999.x.y", "operator.1.x.", "é", "."])
def test_made_up_cookies_do_not_hold(cookie):
    door = access.Access(TOKEN)
    assert not door._holds(cookie)
    assert door._holds(door._make("guest"))


def test_cookies_end(monkeypatch):
    door = access.Access(TOKEN)
    cookie = door._make("operator")
    now = access.time.time()
    monkeypatch.setattr(access.time, "time", lambda: now + access.LASTS_S + 1)
    assert not door._holds(cookie)


def test_without_a_token_only_this_machine_sees_it(scripted):
    assert scripted(hostname="0.0.0.0").get("/admin").status_code == 404
    live = scripted()
    assert live.get("/admin").status_code == 200
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert live.get("/admin", headers=headers).status_code == 404
        assert live.get("/admin/events", headers=headers).status_code == 404


@pytest.mark.parametrize(
    ("path", "fields", "part"),
    [
        ("knobs", {"chunk": "0"}, "`chunk` must be a number from 1 to 16"),
        ("knobs", {"chunk": "17"}, "Given: 17"),
        ("knobs", {"chunk": "2.5"}, "whole"),
        ("knobs", {"tpot_ms": "nan"}, "`tpot_ms`"),
        ("pause", {"on": "2"}, "`on` must be 0 or 1"),
        ("cancel", {"request_id": "nobody"}, "no such request"),
    ],
)
def test_what_is_refused_is_named_and_reaches_nothing(scripted, browser, path, fields, part):
    live = scripted()
    response = act(browser(live), f"/admin/{path}", **fields)
    assert response.status_code in (404, 422)
    assert part in response.json()["error"]
    assert live.engine.steered == []


def test_knobs_are_set_told_and_written_down(scripted, browser, caplog):
    live = scripted()
    client = browser(live)
    act(client, "/admin/knobs", chunk="8", tpot_ms="25")
    act(client, "/admin/pause", on="1")
    wait_for(lambda: live.engine.steered == [(8, 0.025), (8, 0.025)])
    page = client.get("/admin").text
    assert "Admission is paused" in page
    assert "chunk 8, target 25 ms" in page
    assert "Admin: set chunk 8, target 25 ms [by 127.0.0.1]" in caplog.text
    thread = asking(live)
    wait_for(lambda: live.service.held == 1)
    assert live.engine.seen == []
    act(client, "/admin/pause", on="0")
    thread.join()
    assert len(live.engine.seen) == 1


def test_a_drained_server_refuses_and_can_be_opened(scripted, browser):
    live = scripted()
    client = browser(live)
    act(client, "/admin/drain", on="1")
    assert live.get("/readyz").status_code == 503
    assert live.get("/livez").status_code == 200
    assert live.post("/generate", {"inputs": "x"}).status_code == 503
    assert "The server takes no requests now" in client.get("/admin").text
    act(client, "/admin/drain", on="0")
    assert live.post("/generate", {"inputs": "x"}).status_code == 200


def test_a_pinned_chunk_reaches_the_engine(real, browser):
    client = browser(real)
    body = {"inputs": "hi", "parameters": {"max_new_tokens": 24, "diffusion": {"chunk": "auto", "events": "steps"}}}
    try:
        act(client, "/admin/knobs", chunk="2")
        wait_for(lambda: real.engine.controller.pinned == 2)
        steps = [step for event in real.events("/generate_stream", body) for step in event.get("diffusion", [])
                 if isinstance(step, dict) and step["type"] == "step" and step["masked"]]  # fmt: skip
        assert {step["chunk_reason"] for step in steps} == {"manual"}
        # The first row also has the prompt's last tokens to compute, and one mask on top.
        assert {step["chunk"] for step in steps[1:]} == {2}
    finally:
        act(client, "/admin/knobs", chunk="auto")
    wait_for(lambda: real.engine.controller.pinned is None)


def test_the_stream_tells_what_the_page_shows(scripted, browser):
    live = scripted("hello " * 60, step_s=0.03)
    client = browser(live)
    client.get("/admin")
    ticks = []
    with client.stream("GET", "/admin/events") as response:
        assert response.headers["content-security-policy"]
        thread = asking(live)
        for line in response.iter_lines():
            if line.startswith("data: "):
                ticks.append(json.loads(line[6:]))
            if any(tick.get("requests") for tick in ticks) and any(tick["decisions"] for tick in ticks):
                break
            assert len(ticks) < 40
    thread.join()
    assert ticks[0]["type"] == "hello"
    [shown] = next(tick["requests"] for tick in ticks[1:] if tick["requests"])
    assert (shown["id"], shown["path"], shown["max"]) == ("mine", "/generate", 200)
    assert 0 <= shown["done"] <= shown["max"]
    [decision] = next(tick["decisions"] for tick in ticks[1:] if tick["decisions"])
    assert (decision["before"], decision["chunk"], decision["reason"]) == (None, 3, "manual")
    assert decision["predicted_ms"] == 1.0


def test_an_open_page_does_not_hold_up_a_drain(scripted, browser):
    live = scripted()
    client = browser(live)
    client.get("/admin")
    with client.stream("GET", "/admin/events") as response:
        live.service.draining = True
        for _ in response.iter_lines():
            pass
