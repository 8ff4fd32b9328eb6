"""Bodies that are not JSON, and fields that are wrong, missing or unknown."""

import json

import pytest
from pydantic import ValidationError

from optimus_server.api.body import parse
from optimus_server.api.schemas import ChatRequest, CompletionRequest, GenerateRequest
from optimus_server.errors import InvalidRequest, Malformed


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"inputs":', "not valid JSON"),
        (b'{"inputs":"\xff"}', "not valid JSON"),
        (b'{"inputs":"\\ud800"}', "not valid JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"inputs":"x","parameters":{"top_k":1' + b"0" * 5000 + b"}}", "out of range"),
    ],
)
def test_not_json(raw, message):
    with pytest.raises(Malformed, match=message) as caught:
        parse(GenerateRequest, raw)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("raw", "param", "message"),
    [
        ("[]", None, "the body must be a JSON object"),
        ("3", None, "the body must be a JSON object"),
        ("{}", "inputs", "missing field `inputs`"),
        ('{"inputs": 1}', "inputs", "`inputs` must be a valid string. Given: 1"),
        ('{"inputs": null}', "inputs", "`inputs` must be a valid string. Given: null"),
        ('{"inputs": "x", "foo": 1}', "foo", "unknown parameter `foo`"),
        ('{"inputs": "x", "parameters": []}', "parameters", "`parameters` must be an object. Given: an array"),
        ('{"inputs": "x", "parameters": {"foo": 1}}', "parameters.foo", "unknown parameter `parameters.foo`"),
        (
            '{"inputs": "x", "parameters": {"max_new_tokens": "5"}}',
            "parameters.max_new_tokens",
            "`parameters.max_new_tokens` must be a valid integer. Given: a string",
        ),
        (
            '{"inputs": "x", "parameters": {"max_new_tokens": 5.0}}',
            "parameters.max_new_tokens",
            "`parameters.max_new_tokens` must be a valid integer. Given: 5.0",
        ),
        (
            '{"inputs": "x", "parameters": {"temperature": NaN}}',
            "parameters.temperature",
            "`parameters.temperature` must be a finite number. Given: NaN",
        ),
        (
            '{"inputs": "x", "parameters": {"details": 1}}',
            "parameters.details",
            "`parameters.details` must be a valid boolean. Given: 1",
        ),
        (
            '{"inputs": "x", "parameters": {"stop": ["a", 1]}}',
            "parameters.stop.1",
            "`parameters.stop.1` must be a valid string. Given: 1",
        ),
        (
            '{"inputs": "x", "parameters": {"diffusion": {"events": "frames"}}}',
            "parameters.diffusion.events",
            "`parameters.diffusion.events` must be 'none' or 'steps'. Given: a string",
        ),
        (
            '{"inputs": "x", "parameters": {"diffusion": {"max_rate_hz": 3}}}',
            "parameters.diffusion.max_rate_hz",
            "unknown parameter `parameters.diffusion.max_rate_hz`",
        ),
    ],
)
def test_wrong_fields_of_generate(raw, param, message):
    with pytest.raises(InvalidRequest) as caught:
        parse(GenerateRequest, raw.encode())
    assert (caught.value.message, caught.value.param, caught.value.status) == (message, param, 422)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stop": 5}, "`stop` must be a valid string or a valid array. Given: 5"),
        ({"stop": ["a", 5]}, "`stop.1` must be a valid string. Given: 5"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "`messages.0.content.0.type` must be 'text'. Given: a string",
        ),
    ],
)
def test_fields_of_several_types(fields, message):
    body = {"messages": [{"role": "user", "content": "x"}]} | fields
    with pytest.raises(InvalidRequest) as caught:
        parse(ChatRequest, json.dumps(body).encode())
    assert caught.value.message == message


def test_the_users_text_is_not_repeated():
    with pytest.raises(InvalidRequest) as caught:
        parse(GenerateRequest, b'{"inputs": "x", "parameters": {"max_new_tokens": "my secret"}}')
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": [1.5] * 100_000}, "prompt.0"),
        ({"prompt": [[1, -1.5]] * 20_000}, "prompt.0.1"),
        ({"prompt": "x", "stop": ["a", *[5] * 100_000]}, "stop.1"),
    ],
)
def test_of_a_list_of_wrong_items_the_first_is_told(fields, field):
    raw = json.dumps(fields).encode()
    with pytest.raises(ValidationError) as all_of_them:
        CompletionRequest.model_validate_json(raw)
    # Each would take its time of the event loop.
    assert all_of_them.value.error_count() < 10
    with pytest.raises(InvalidRequest) as caught:
        parse(CompletionRequest, raw)
    assert caught.value.param == field


def test_of_too_many_wrong_fields_none_is_told():
    raw = json.dumps({"inputs": "x"} | {f"k{number}": 1 for number in range(5000)}).encode()
    with pytest.raises(InvalidRequest, match="5000 fields are unknown or of the wrong type"):
        parse(GenerateRequest, raw)
