"""TGI's routes, field by field."""

import pytest

from tests.web import END, spoken, wait_for

SUMMARY = {
    "v", "type", "policy", "steps", "tokens_per_step", "blocks", "chunk", "computed_positions", "wasted_tokens",
    "prefix_hit_tokens", "ttft_ms",
}  # fmt: skip


def body(inputs="hi", **parameters):
    return {"inputs": inputs, "parameters": parameters}


def test_generate_without_details(scripted):
    response = scripted("hello world").post("/generate", body())
    assert response.status_code == 200
    assert response.json() == {"generated_text": "hello world"}


def test_generate_with_details(scripted, tokenizer):
    live = scripted("hello 🙂")
    result = live.post("/generate", body(details=True, seed=3)).json()
    assert set(result) == {"generated_text", "details"}
    details = result["details"]
    assert set(details) == {"finish_reason", "generated_tokens", "seed", "prefill", "tokens", "diffusion"}
    ids = [*tokenizer.encode("hello 🙂"), END]
    assert [token["id"] for token in details["tokens"]] == ids
    assert all(set(token) == {"id", "text", "logprob", "special"} for token in details["tokens"])
    assert "".join(token["text"] for token in details["tokens"]) == "hello 🙂"
    assert [token["special"] for token in details["tokens"]] == [False] * (len(ids) - 1) + [True]
    assert (details["finish_reason"], details["generated_tokens"]) == ("eos_token", len(ids))
    assert (details["seed"], details["prefill"]) == (3, [])
    assert set(details["diffusion"]) == SUMMARY


def test_prefill_lists_the_prompt_without_logprobs(scripted, tokenizer):
    details = scripted("x").post("/generate", body("hello", details=True, decoder_input_details=True)).json()["details"]
    assert [token["id"] for token in details["prefill"]] == list(tokenizer.encode("hello"))
    assert "".join(token["text"] for token in details["prefill"]) == "hello"
    assert {token["logprob"] for token in details["prefill"]} == {None}


def test_top_tokens(scripted):
    live = scripted("hello")
    details = live.post("/generate", body(details=True, top_n_tokens=2)).json()["details"]
    assert len(details["top_tokens"]) == details["generated_tokens"]
    events = live.events("/generate_stream", body(top_n_tokens=2))
    assert [event["top_tokens"] for event in events] == details["top_tokens"]
    assert [[set(token) for token in top] for top in details["top_tokens"]] == [
        [{"id", "text", "logprob", "special"}] * 2
    ] * len(events)


def test_best_of_answers_with_the_most_probable(scripted, tokenizer):
    live = scripted(script=lambda request: spoken(tokenizer, "best" if request.id.endswith("-1") else "other"))
    live.engine.logprob = lambda request: -0.1 if request.id.endswith("-1") else -0.2
    result = live.post("/generate", body(best_of=2, do_sample=True, details=True)).json()
    assert result["generated_text"] == "best"
    [other] = result["details"]["best_of_sequences"]
    assert other["generated_text"] == "other"
    assert set(other) == {"generated_text", "finish_reason", "generated_tokens", "seed", "prefill", "tokens"}
    assert other["seed"] != result["details"]["seed"]
    assert "best_of_sequences" not in live.post("/generate", body(details=True)).json()["details"]


def test_generate_ignores_stream_and_compat_does_not(scripted):
    live = scripted("hello")
    assert live.post("/generate", {"inputs": "a", "stream": True}).json() == {"generated_text": "hello"}
    for path in ("/", "/v1"):
        assert live.post(path, {"inputs": "a"}).json() == [{"generated_text": "ahello"}]
        assert live.events(path, {"inputs": "a", "stream": True})[-1]["generated_text"] == "ahello"


@pytest.mark.parametrize(("path", "default"), [("/generate", False), ("/", True)])
def test_full_text(scripted, path, default):
    live = scripted("hello")
    for given, expected in ((None, default), (True, True), (False, False)):
        result = live.post(path, body("a ", return_full_text=given)).json()
        result = result[0] if isinstance(result, list) else result
        assert result["generated_text"] == ("a hello" if expected else "hello")


def test_a_stream_is_one_event_per_token(scripted, tokenizer):
    events = scripted("the quick brown fox 🙂").events("/generate_stream", body(details=True))
    ids = [*tokenizer.encode("the quick brown fox 🙂"), END]
    assert [event["token"]["id"] for event in events] == ids
    assert [event["index"] for event in events] == list(range(1, len(ids) + 1))
    for event in events[:-1]:
        assert set(event) == {"index", "token", "generated_text", "details"}
        assert set(event["token"]) == {"id", "text", "logprob", "special"}
        assert event["generated_text"] is event["details"] is None
    last = events[-1]
    assert last["generated_text"] == "the quick brown fox 🙂"
    assert last["token"] == {"id": END, "text": "", "logprob": -0.5, "special": True}
    assert set(last["details"]) == {"finish_reason", "generated_tokens", "input_length", "seed"}
    assert last["details"]["finish_reason"] == "eos_token"
    assert last["details"]["input_length"] == len(tokenizer.encode("hi"))
    assert set(last["diffusion"]) == SUMMARY
    assert "".join(event["token"]["text"] for event in events) == last["generated_text"]


def test_details_come_only_if_asked(scripted):
    last = scripted("x").events("/generate_stream", body())[-1]
    assert last["details"] is None
    assert last["generated_text"] == "x"


def test_finish_by_length(scripted):
    live = scripted("hello", end=False)
    assert live.post("/generate", body(details=True)).json()["details"]["finish_reason"] == "length"


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_stop_string_ends_the_answer_and_frees_the_engine(scripted, tokenizer, path):
    live = scripted(script=lambda request: spoken(tokenizer, "one two three " * 40, 1), step_s=0.002)
    request = body(stop=["two", "###"], details=True)
    result = live.post(path, request).json() if path == "/generate" else live.events(path, request)[-1]
    assert result["generated_text"] == "one two"
    assert result["details"]["finish_reason"] == "stop_sequence"
    assert live.engine.ended[-1][1] == "cancelled"
    assert len(live.engine.live) == 0
    wait_for(lambda: live.service.idle)


def test_tokens_behind_a_stop_string_are_counted_as_wasted(scripted):
    live = scripted("a b c d e f", per_step=20)
    details = live.post("/generate", body(stop=["b"], details=True)).json()["details"]
    assert details["diffusion"]["wasted_tokens"] > 0
    assert details["diffusion"]["tokens_per_step"] == details["generated_tokens"]


def test_headers_of_an_answer(scripted):
    response = scripted("hello").post("/generate", body("12345"))
    headers = response.headers
    assert headers["x-compute-type"] == "cpu+optimized"
    assert headers["x-compute-characters"] == "5"
    assert 0 < float(headers["x-compute-time"]) < 5
    for name in ("total", "validation", "queue", "inference"):
        assert headers[f"x-{name}-time"].isdigit()
    assert headers["x-time-per-token"].isdigit()
    assert int(headers["x-prompt-tokens"]) > 0
    assert int(headers["x-generated-tokens"]) > 1
    assert int(headers["x-diffusion-steps"]) >= 1
    assert float(headers["x-tokens-per-step"]) > 0


def test_headers_of_a_stream(scripted):
    headers = scripted("hello").post("/generate_stream", body("12345")).headers
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-compute-characters"] == "5"
    assert headers["cache-control"] == "no-store"
    assert "x-total-time" not in headers
    assert "x-request-id" in headers


def test_parameters_reach_the_engine(scripted):
    live = scripted("x")
    given = {
        "max_new_tokens": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 11,
        "diffusion": {"policy": "block", "chunk": 2, "confidence": 0.3, "unmask": "sequential"},
    }  # fmt: skip
    summary = live.post("/generate", body(details=True, **given)).json()["details"]["diffusion"]
    params = live.engine.seen[-1].params
    assert (params.max_new_tokens, params.temperature, params.top_k, params.top_p) == (7, 0.5, 3, 0.9)
    assert (params.seed, params.policy, params.chunk) == (11, "block", 2)
    assert (params.threshold, params.unmask) == (0.3, "sequential")
    assert params.stop_ids == {END}
    assert summary["policy"] == "block"


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_errors_have_a_status_and_the_shape_of_tgi(scripted, path):
    response = scripted().post(path, body("", max_new_tokens=1) | {"stream": True})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/json"
    expected = {"error": "Input validation error: `inputs` cannot be empty", "error_type": "validation"}
    assert response.json() == expected


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_what_cannot_be_honored_is_refused_or_dropped_and_named(scripted, path):
    asked = body(watermark=True, adapter_id="x")
    refused = scripted("x").post(path, asked)
    assert refused.status_code == 422
    assert "`watermark` is not supported" in refused.json()["error"]
    answered = scripted("x", rule={"ignore_unsupported": True}).post(path, asked)
    assert answered.status_code == 200
    assert answered.headers["x-ignored-parameters"] == "watermark, adapter_id"
    assert "x-ignored-parameters" not in scripted("x").post(path, body()).headers
