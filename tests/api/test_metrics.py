"""GET /metrics: TGI's bare names, and numbers that are what happened."""

import re

import httpx
import pytest

from tests.web import wait_for

FOREVER = [(10,)] * 100_000
COUNTERS = {"tgi_request_count", "tgi_request_success", "tgi_request_failure"}
GAUGES = {
    "tgi_queue_size", "tgi_batch_current_size", "tgi_batch_current_max_tokens", "tgi_batch_max_total_tokens",
    "optimus_requests_running", "optimus_requests_waiting",
}  # fmt: skip
HISTOGRAMS = {
    "tgi_request_duration", "tgi_request_validation_duration", "tgi_request_queue_duration",
    "tgi_request_inference_duration", "tgi_request_mean_time_per_token_duration", "tgi_request_generated_tokens",
    "tgi_request_input_length", "tgi_request_max_new_tokens", "tgi_request_skipped_tokens",
    "optimus_time_to_first_token_seconds", "optimus_tokens_per_forward",
}  # fmt: skip


def samples(live):
    """Each sample's name with its labels -> its value."""
    response = live.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_names_that_dashboards_ask_for(scripted):
    live = scripted("hello")
    live.post("/generate", {"inputs": "x"})
    live.post("/generate", {"inputs": ""})
    names = {re.sub(r"\{.*", "", name) for name in samples(live)}
    assert names >= COUNTERS | GAUGES
    assert names >= {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}
    assert not [name for name in names if name.startswith("tgi_") and name.endswith(("_total", "_created"))]


def test_an_answer_is_measured(scripted, tokenizer):
    live = scripted("hello world", per_step=2)
    live.post("/generate", {"inputs": "hello", "parameters": {"max_new_tokens": 50}})
    found = samples(live)
    tokens = len(tokenizer.encode("hello world")) + 1
    steps = -(-tokens // 2)
    expected = {
        "tgi_request_count": 1, "tgi_request_success": 1, "tgi_request_duration_count": 1,
        "tgi_request_input_length_sum": len(tokenizer.encode("hello")), "tgi_request_generated_tokens_sum": tokens,
        "tgi_request_max_new_tokens_sum": 50, "tgi_request_skipped_tokens_sum": tokens - steps,
        "tgi_request_queue_duration_sum": 0.001, "tgi_request_inference_duration_sum": 0.002,
        "tgi_batch_max_total_tokens": 4096, "optimus_wasted_tokens_total": 0, "optimus_permits_taken": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["optimus_tokens_per_forward_sum"] == pytest.approx(tokens / steps)
    assert 0 < found["tgi_request_validation_duration_sum"] < found["tgi_request_duration_sum"]


def test_steps_are_measured(scripted):
    live = scripted(script=lambda request: [(10, 11), (12,), (13, 14, 15)], step_s=0.002)
    live.post("/generate", {"inputs": "x"})
    wait_for(lambda: samples(live).get("optimus_step_duration_seconds_count") == 3)
    found = samples(live)
    expected = {
        'tgi_batch_inference_count{method="decode"}': 3, 'tgi_batch_inference_success{method="decode"}': 3,
        'tgi_batch_forward_duration_count{method="decode"}': 3, "tgi_batch_next_size_sum": 3,
        "optimus_chunk_size_sum": 9, "optimus_committed_per_step_sum": 6,
        'optimus_chunk_decisions_total{reason="manual"}': 3, "optimus_time_to_first_commit_seconds_count": 1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert found["optimus_step_predicted_seconds_total"] == pytest.approx(0.003)


def test_failures_have_their_causes(scripted):
    live = scripted(script=lambda request: FOREVER, step_s=0.005, max_concurrent_requests=1, request_timeout=0.3)
    live.post("/generate", {"inputs": ""})
    live.post("/v1/completions", {"prompt": "x", "nonsense": 1})
    live.post("/generate", content=b"{")
    with live.service.permit():
        live.post("/generate", {"inputs": "x"})
    with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "x"}) as response:
        parts = response.iter_bytes()
        next(parts)
    wait_for(lambda: live.service.idle)
    assert live.post("/generate", {"inputs": "x"}).status_code == 504
    found = samples(live)
    causes = {name: value for name, value in found.items() if name.startswith("tgi_request_failure")}
    assert causes == {
        'tgi_request_failure{err="validation"}': 3,
        'tgi_request_failure{err="overloaded"}': 1,
        'tgi_request_failure{err="dropped"}': 1,
        'tgi_request_failure{err="generation"}': 1,
    }
    assert (found["tgi_request_count"], found["tgi_request_success"]) == (6, 0)
    live.get("/nowhere")
    assert samples(live)["tgi_request_count"] == 6


def test_the_load_is_read_when_it_is_asked_for(scripted):
    live = scripted(script=lambda request: FOREVER, step_s=0.005)
    with httpx.stream("POST", live.url + "/generate_stream", json={"inputs": "x"}) as response:
        parts = response.iter_bytes()
        next(parts)
        found = samples(live)
        assert (found["tgi_batch_current_size"], found["optimus_permits_taken"]) == (1, 1)
    wait_for(lambda: live.service.idle and not live.engine.busy)
    assert samples(live)["optimus_requests_running"] == 0
