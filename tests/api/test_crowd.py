"""Background requests: they come, they leave with whoever asked, and they make way for clients."""

import contextlib
import json
import threading
import time

import httpx
import pytest

from optimus_server.api import crowd
from optimus_server.engine.telemetry import Load
from tests.web import wait_for

LONG = "word " * 400


@pytest.fixture
def asked():
    """Asks for background requests; the events come into a list, and the stream ends with the test."""
    with contextlib.ExitStack() as stack:

        def ask(live, count):
            found, leave, ended = [], threading.Event(), threading.Event()

            def read():
                options = {"json": {"requests": count}, "timeout": 30}
                with httpx.stream("POST", live.url + crowd.PATH, **options) as response:
                    for line in response.iter_lines():
                        if line.startswith("data: "):
                            found.append(json.loads(line[6:]))
                        if leave.is_set():
                            return
                ended.set()

            thread = threading.Thread(target=read)
            thread.start()

            def close():
                leave.set()
                thread.join()

            stack.callback(close)
            return found, close, ended

        yield ask


@pytest.fixture
def crowded(scripted):
    """Starts servers that let visitors add load, and end each request after 400 tokens or so."""
    return lambda **settings: scripted(LONG, step_s=0.01, playground_load=True, **settings)


def test_they_run_as_clients_do_and_leave_with_the_visitor(crowded, asked):
    live = crowded()
    found, close, _ = asked(live, 4)
    wait_for(lambda: len(live.engine.live) == 4)
    wait_for(lambda: found and found[-1]["running"] == 4)
    assert live.service.permits_taken == 4
    assert found[-1]["wanted"] == 4
    assert 0 < found[-1]["seconds_left"] <= crowd.LASTS_S
    assert {request.params.max_new_tokens for request in live.engine.seen} == {128}  # half of this server's room
    close()
    wait_for(lambda: live.service.permits_taken == 0 and not live.engine.live)


def test_an_answer_that_ends_is_followed_by_another(scripted, asked):
    live = scripted("short", step_s=0.01, playground_load=True)
    asked(live, 2)
    wait_for(lambda: len(live.engine.ended) > 5)
    assert len(live.engine.live) <= 2


def test_one_place_in_four_is_kept_and_clients_displace_them(crowded, asked):
    live = crowded(max_batch_size=8, max_concurrent_requests=8)
    found, _, _ = asked(live, 64)
    wait_for(lambda: len(live.engine.live) == 6)
    body = {"inputs": "x", "parameters": {"max_new_tokens": 200}}
    with contextlib.ExitStack() as stack:
        for count in range(1, 8):
            # As many clients as there are permits: none of them is refused, whoever else runs.
            opened = stack.enter_context(httpx.stream("POST", live.url + "/generate_stream", json=body, timeout=30))
            assert opened.status_code == 200
            wait_for(lambda: live.service.permits_taken <= 8 and len(live.engine.live) <= max(6, count))  # noqa: B023
        wait_for(lambda: found[-1]["running"] == 0)
    wait_for(lambda: found[-1]["running"] == 6)


def test_they_leave_when_others_wait_for_memory(crowded, asked):
    live = crowded()
    asked(live, 4)
    wait_for(lambda: len(live.engine.live) == 4)
    live.engine.load = lambda: Load(running=4, waiting=1, free_pages=2, pages=10)
    wait_for(lambda: live.service.permits_taken == 0)
    live.engine.load = lambda: Load(running=0, waiting=0, free_pages=2, pages=10)
    time.sleep(3 * crowd.LOOK_S)
    assert live.service.permits_taken == 0  # none begins while memory is short
    live.engine.load = lambda: Load(running=0, waiting=0, free_pages=9, pages=10)
    wait_for(lambda: live.service.permits_taken == 4)


def test_who_asks_last_decides(crowded, asked):
    live = crowded()
    _, _, ended = asked(live, 16)
    wait_for(lambda: len(live.engine.live) == 16)
    asked(live, 3)
    wait_for(ended.is_set)
    wait_for(lambda: len(live.engine.live) == 3)


def test_their_time_is_limited(crowded, asked, monkeypatch):
    monkeypatch.setattr(crowd, "LASTS_S", 0.3)
    live = crowded()
    _, _, ended = asked(live, 2)
    wait_for(ended.is_set)
    wait_for(lambda: live.service.permits_taken == 0)


def test_they_end_when_the_server_drains(crowded, asked):
    live = crowded()
    _, _, ended = asked(live, 2)
    wait_for(lambda: len(live.engine.live) == 2)
    live.service.draining = True
    wait_for(ended.is_set)
    wait_for(lambda: live.service.permits_taken == 0)


@pytest.mark.parametrize("body", [{"requests": 65}, {"requests": -1}, {"requests": "4"}, {}])
def test_what_cannot_be_is_refused_by_name(crowded, body):
    response = crowded().post(crowd.PATH, body)
    assert response.status_code == 422
    assert "`requests`" in response.json()["error"]


def test_there_is_no_such_route_unless_asked_for(scripted):
    assert scripted().post(crowd.PATH, {"requests": 4}).status_code == 404


def test_with_a_key_it_needs_the_key(crowded):
    assert crowded(api_key="secret").post(crowd.PATH, {"requests": 4}).status_code == 401
