"""Every way a request can end leaves its row, and nothing that should not be in it."""

import contextlib
import json
import time

import httpx
import pytest
from sqlalchemy import select

from optimus_server.api import visit
from optimus_server.app import create_app, instance
from optimus_server.backend import build_backend
from optimus_server.errors import InvalidRequest, TemplateFailed
from optimus_server.settings import Settings
from optimus_server.store import start
from optimus_server.store.queries import Log
from optimus_server.store.tables import ChunkDecision, Instance, LoadSample
from tests.store.samples import recording, settled
from tests.web import listening, wait_for

CHAT = {"messages": [{"role": "user", "content": "hello world"}]}


@pytest.fixture
def logged(scripted, file):
    """Starts scripted servers with a log; ``rows(n)`` waits for n rows, oldest first."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(Log(str(file)))

        def begin(*arguments, log_text="hash", **settings):
            recorder = stack.enter_context(recording(str(file), log_text=log_text))
            live = scripted(*arguments, recorder=recorder, **settings)

            def rows(count):
                wait_for(lambda: len(log.requests()) >= count)
                found = log.requests()[::-1]
                assert len(found) == count
                return found

            live.rows, live.log, live.recorder = rows, log, recorder
            return live

        yield begin


def test_an_answer(logged):
    live = logged("hello world", log_text="full")
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 50, "top_k": 5, "temperature": 0.5, "seed": 7}}
    answer = live.post("/generate", body, headers={"x-request-id": "mine", "user-agent": "tests/1"})
    (row,) = live.rows(1)
    assert (row["request_id"], row["endpoint"], row["stream"], row["status"]) == ("mine", "/generate", False, 200)
    assert (row["finish_reason"], row["cancelled"], row["error_type"]) == ("eos_token", False, None)
    assert (row["user_agent"], row["client"], row["seed"], row["policy"]) == ("tests/1", None, "7", "chunk")
    assert json.loads(row["params_json"]) == {"temperature": 0.5, "top_k": 5}
    assert row["prompt_tokens"] == int(answer.headers["x-prompt-tokens"])
    assert row["generated_tokens"] == int(answer.headers["x-generated-tokens"])
    assert row["steps"] == int(answer.headers["x-diffusion-steps"])
    assert 0 < row["validation_ms"] <= row["ttft_ms"] <= row["total_ms"]
    found = live.log.request("mine")
    assert (found.prompt, found.output) == ("hello", answer.json()["generated_text"])
    assert sum(found.pieces) == len(found.output)


def test_a_stream(logged):
    live = logged("hello world")
    live.events("/v1/chat/completions", CHAT | {"stream": True})
    (row,) = live.rows(1)
    assert (row["endpoint"], row["stream"], row["status"]) == ("/v1/chat/completions", True, 200)
    assert row["finish_reason"] == "eos_token"
    assert row["prompt_hmac"]


def test_refusals(logged):
    live = logged("hello", api_key="right", payload_limit=2000)
    key = {"authorization": "Bearer right"}
    live.post("/generate", {"inputs": "hi"}, headers={"authorization": "Bearer wrong"})
    live.post("/generate", {"inputs": ""}, headers=key)
    live.post("/generate", {"inputs": "x" * 3000}, headers=key)
    httpx.post(live.url + "/generate", content=b"{", headers=key | {"content-type": "application/json"})
    live.post("/generate", {"inputs": "hi", "private words": 1}, headers=key)
    rows = live.rows(5)
    assert [row["status"] for row in rows] == [401, 422, 413, 400, 422]
    assert [row["error_type"] for row in rows] == [
        "invalid_api_key", "validation", "validation", "validation", "validation"
    ]  # fmt: skip
    assert rows[1]["error"] == "`inputs` cannot be empty"
    assert all(row["prompt_hmac"] is None and row["finish_reason"] is None for row in rows)
    assert rows[0]["client"] != rows[1]["client"] == rows[2]["client"]
    assert "right" not in str(rows)


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("`top_k` must be <= 5. Given: 7", "`top_k` must be <= 5. Given: 7"),
        ("too long. Given: 90 `inputs` tokens and 5 `max_new_tokens`", None),
        ("`x` must be one of a, b. Given: my secret", "`x` must be one of a, b."),
        ("`x` must be one of a, b. Given: 7 secrets", "`x` must be one of a, b."),
        ("unknown parameter `my secret`", "unknown parameter"),
        ("missing field `inputs`", "missing field `inputs`"),
    ],
)
def test_what_an_error_quotes_is_not_kept(message, kept):
    assert visit._told(InvalidRequest(message)) == (kept or message)


def test_of_a_template_s_error_only_the_code_is_kept():
    assert visit._told(TemplateFailed("cannot render my secret")) is None


def test_overload(logged):
    live = logged("hello world " * 20, step_s=0.05, max_concurrent_requests=1)
    with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "hi"}, timeout=30) as response:
        parts = response.iter_bytes()
        next(parts)
        assert live.post("/generate", {"inputs": "hi"}).status_code == 429
    refused, left = sorted(live.rows(2), key=lambda row: -row["status"])
    assert (refused["status"], refused["error_type"]) == (429, "overloaded")
    assert (left["status"], left["cancelled"], left["finish_reason"]) == (200, True, "cancelled")
    assert left["generated_tokens"] > 0


def test_a_client_that_leaves_before_the_answer(logged):
    live = logged("hello world " * 40, step_s=0.05)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(live.url + "/generate", json={"inputs": "hi"}, timeout=0.3)
    (row,) = live.rows(1)
    assert (row["status"], row["cancelled"], row["finish_reason"]) == (499, True, "cancelled")


def test_an_engine_that_dies_in_a_stream(logged):
    live = logged("hello world " * 20, step_s=0.02)
    with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "hi"}, timeout=30) as response:
        parts = response.iter_bytes()
        next(parts)
        live.engine.explode = True
        b"".join(parts)
    (row,) = live.rows(1)
    assert (row["status"], row["cancelled"], row["error_type"]) == (200, False, "generation")
    assert "script says so" in row["error"]


def test_draining(logged):
    live = logged("hello")
    live.service.draining = True
    live.post("/generate", {"inputs": "hi"})
    (row,) = live.rows(1)
    assert (row["status"], row["error_type"]) == (503, "healthcheck")


def test_shutdown_ends_requests_with_a_row(logged):
    live = logged("hello world " * 20, step_s=0.02)
    with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "hi"}, timeout=30) as response:
        parts = response.iter_bytes()
        next(parts)
        live.service.fail_all()
        b"".join(parts)
    (row,) = live.rows(1)
    assert (row["error_type"], row["error"]) == ("generation", "Server is shutting down")


def test_a_bug_is_a_500(logged, monkeypatch):
    live = logged("hello")
    monkeypatch.setattr("optimus_server.api.exchange.Exchange.headers", lambda self: 1 / 0)
    assert live.post("/generate", {"inputs": "hi"}).status_code == 500
    (row,) = live.rows(1)
    assert row["status"] == 500


def test_requests_that_leave_no_row(logged):
    live = logged("hello")
    live.post("/generate", {"inputs": "hi"}, headers={"x-no-log": "1"})
    live.get("/health")
    live.get("/info")
    live.post("/nowhere", {})
    live.post("/tokenize", {"inputs": "hi"})
    live.post("/generate", {"inputs": "hi"}, headers={"x-no-log": "0", "x-request-id": "kept"})
    (row,) = live.rows(1)
    assert row["request_id"] == "kept"


def test_every_choice_has_a_row(logged):
    live = logged("hello world")
    body = {"prompt": ["hello", "world"], "n": 2, "temperature": 1.0, "max_tokens": 20}
    assert len(live.post("/v1/completions", body).json()["choices"]) == 4
    rows = live.rows(4)
    assert sorted(row["choice"] for row in rows) == [0, 1, 2, 3]
    assert len({row["request_id"] for row in rows}) == 1
    assert len({bytes(row["prompt_hmac"]) for row in rows}) == 2
    assert all(row["finish_reason"] == "eos_token" for row in rows)


def test_drops_are_a_metric(logged):
    live = logged("hello")
    live.recorder.lose(3)
    assert "\noptimus_log_dropped 3" in live.get("/metrics").text


def test_without_a_log_everything_works(scripted):
    assert scripted("hello").post("/generate", {"inputs": "hi"}).status_code == 200


def test_the_real_engine_s_steps_decisions_and_load(model_dir, tmp_path):
    place = str(tmp_path / "log.db")
    settings = Settings(
        model_id=str(model_dir),
        max_batch_total_tokens=8192,
        max_batch_size=16,
        log_db=place,
        api_key="hidden",
        no_playground=True,
    )
    open_log = start.prepare(settings)
    backend = build_backend(settings)
    recorder = open_log(instance(settings, backend))
    with listening(create_app(settings, backend, recorder), backend.host.engine) as live:
        body = {"inputs": "hello world", "parameters": {"max_new_tokens": 40}}
        answer = live.post("/generate", body, headers={"x-request-id": "a", "authorization": "Bearer hidden"})
        assert answer.status_code == 200
        time.sleep(1.5)
        settled(recorder)
    recorder.close()
    with Log(place) as log:
        found = log.request("a")
        committed = [position for step in found.steps for position in step.positions]
        first = found.request["prompt_tokens"]
        assert sorted(committed)[: found.request["generated_tokens"]] == list(
            range(first, first + found.request["generated_tokens"])
        )
        assert sum(step.step_ms for step in found.steps) <= found.request["total_ms"]
        assert found.steps[-1].t_ms <= found.request["total_ms"] + 5
        offered = [step for step in found.steps if step.masks]
        assert found.request["chunk_max"] == max(step.chunk for step in offered)
        assert 0 < found.request["ttfc_ms"] <= found.request["total_ms"]
        assert len(found.steps) >= found.request["steps"]
        assert log.rows(select(ChunkDecision.__table__))
        assert log.rows(select(LoadSample.__table__))
        (server,) = log.rows(select(Instance.__table__))
    assert "hidden" not in json.dumps(server)
    assert json.loads(server["settings_json"])["max_batch_size"] == 16
    assert (server["block_size"], server["logit_shift"], len(server["model_sha"])) == (8, 1, 16)
    assert server["stopped_us"]
