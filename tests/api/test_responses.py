"""POST /v1/responses, field by field."""

import json

import pytest

from tests.web import spoken

PATH = "/v1/responses"
ITEM = {"type": "message", "role": "assistant", "status": "completed"}


def stream(live, body):
    """The events of a stream; each must have its type as its name."""
    text = live.post(PATH, body | {"stream": True}).text
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == "event: " + found[-1]["type"]
    return found


def test_a_response(scripted, tokenizer):
    live = scripted("hello 🙂")
    answer = live.post(PATH, {"input": "hi", "model": "any", "metadata": {"a": "b"}}).json()
    assert (answer["object"], answer["status"], answer["model"]) == ("response", "completed", "org/scripted")
    assert answer["id"].startswith("resp_")
    part = {"type": "output_text", "text": "hello 🙂", "annotations": [], "logprobs": []}
    assert answer["output"] == [ITEM | {"id": answer["output"][0]["id"], "content": [part]}]
    usage = answer["usage"]
    assert usage["input_tokens"] == live.engine.seen[-1].prompt_len
    assert usage["output_tokens"] == len(tokenizer.encode("hello 🙂")) + 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (answer["error"], answer["incomplete_details"], answer["metadata"]) == (None, None, {"a": "b"})
    assert answer["diffusion"]["type"] == "summary"


def test_the_events_of_a_stream(scripted):
    live = scripted("hello big world")
    events = stream(live, {"input": "hi"})
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert [event["sequence_number"] for event in events] == list(range(1, len(events) + 1))
    assert "".join(event["delta"] for event in events[4:-4]) == events[-4]["text"] == "hello big world"
    assert (events[0]["response"]["status"], events[0]["response"]["output"]) == ("in_progress", [])
    last = events[-1]["response"]
    assert last["output"][0]["content"][0]["text"] == "hello big world"
    assert last["output"][0] == events[-2]["item"]
    assert last["id"] == events[0]["response"]["id"]
    assert "diffusion" in last


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_that_was_cut_is_incomplete(scripted, streams):
    live = scripted("hello", end=False)
    body = {"input": "hi", "max_output_tokens": 2}
    if streams:
        last = stream(live, body)[-1]
        assert last["type"] == "response.incomplete"
        answer = last["response"]
    else:
        answer = live.post(PATH, body).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_instructions_and_items_become_a_chat(scripted, tokenizer):
    live = scripted("x")
    items = [
        {"role": "developer", "content": "rules"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hel"}]},
        ITEM | {"id": "msg_1", "content": [{"type": "output_text", "text": "yes", "annotations": [], "logprobs": []}]},
        {"role": "user", "content": "more"},
    ]
    live.post(PATH, {"input": items, "instructions": "be brief"})
    request = live.engine.seen[-1]
    said = [("system", "be brief"), ("system", "rules"), ("user", "hel"), ("assistant", "yes"), ("user", "more")]
    expected, _ = tokenizer.encode_chat([{"role": role, "content": text} for role, text in said])
    assert tuple(request.tokens[: request.prompt_len].tolist()) == expected


def test_logprobs(scripted):
    live = scripted("one two")
    body = {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    logprobs = live.post(PATH, body).json()["output"][0]["content"][0]["logprobs"]
    assert "".join(entry["token"] for entry in logprobs) == "one two"
    assert all(len(entry["top_logprobs"]) == 2 for entry in logprobs)
    deltas = [event for event in stream(live, body) if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == logprobs


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": [], "instructions": "x"}, "input"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type"),
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10_000}, "max_output_tokens"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
def test_what_is_refused(scripted, fields, param, streams):
    response = scripted().post(PATH, {"input": "hi", "stream": streams} | fields)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == param


def test_a_failure_in_the_stream_is_an_error_event(scripted, tokenizer):
    live = scripted(script=lambda request: spoken(tokenizer, "a b c d e f", 1), step_s=0.01)
    real = live.engine.step
    live.engine.step = lambda meanwhile: (
        real(meanwhile) if not live.engine.live or live.engine.seen[0].steps < 2 else 1 / 0
    )
    events = stream(live, {"input": "hi"})
    assert events[-1]["type"] == "error"
    assert "ZeroDivisionError" in events[-1]["message"]
    assert events[-1]["sequence_number"] == len(events)
