"""What each route makes of its body, and what passes as neutral."""

import json

import pytest

from optimus_server.api.body import parse
from optimus_server.api.schemas import ChatRequest, CompletionRequest, GenerateRequest
from optimus_server.errors import InvalidRequest, SuffixUnsupported


def generate(**parameters):
    return parse(GenerateRequest, json.dumps({"inputs": "x", "parameters": parameters}).encode())


def chat(**fields):
    body = {"messages": [{"role": "user", "content": "hi"}]} | fields
    return parse(ChatRequest, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": 5}, "stop"),
        ({"stop": [1]}, "stop.0"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages.0.tool_calls"),
        ({"stream_options": {"foo": 1}}, "stream_options.foo"),
        ({"best_off": 1}, "best_off"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_wrong_fields_of_chat(fields, param):
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param


def test_nulls_are_absent():
    names = [
        "best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p",
        "do_sample", "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details",
        "decoder_input_details", "seed", "top_n_tokens", "grammar", "adapter_id", "diffusion",
    ]  # fmt: skip
    assert generate(**dict.fromkeys(names)).ask(streaming=True) == generate().ask(streaming=True)


def test_sampling_is_the_default_only_without_parameters():
    assert parse(GenerateRequest, b'{"inputs": "x"}').ask(streaming=False).do_sample
    assert parse(GenerateRequest, b'{"inputs": "x", "parameters": null}').ask(streaming=False).do_sample
    assert not generate().ask(streaming=False).do_sample


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"watermark": True}, {"watermark": "false"}),
        ({"grammar": {"type": "regex", "value": "a"}}, {"grammar": "null"}),
        ({"adapter_id": "x"}, {"adapter_id": "null"}),
        ({"watermark": False, "repetition_penalty": 1.0, "frequency_penalty": 0, "best_of": 1}, {}),
    ],
)
def test_what_generate_cannot_honour(parameters, refused):
    assert generate(**parameters).ask(streaming=False).refused == refused


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"logit_bias": {"5": 1}}, {"logit_bias": "{}"}),
        ({"response_format": {"type": "json_object"}}, {"response_format": '{"type": "text"}'}),
        ({"tools": [{"type": "function"}]}, {"tools": "[]"}),
        (
            {
                "n": 1,
                "presence_penalty": 0,
                "logit_bias": {},
                "logprobs": False,
                "tools": [],
                "store": False,
                "response_format": {"type": "text"},
                "user": "u",
                "metadata": {"a": "b"},
                "stream_options": None,
                "tool_choice": "auto",
                "model": "anything",
            },
            {},
        ),
    ],
)
def test_what_chat_cannot_honour(fields, refused):
    assert chat(**fields).asks()[0].refused == refused


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_what_streams_cannot_honour(parameters, message):
    with pytest.raises(InvalidRequest) as caught:
        generate(**parameters).ask(streaming=True)
    assert caught.value.message == message


def test_stop_is_a_string_or_a_list():
    assert chat(stop="a").asks()[0].stop == ("a",)
    assert chat(stop=["a", "b"]).asks()[0].stop == ("a", "b")
    assert chat(stop=None).asks()[0].stop == ()


def test_both_names_of_the_length():
    assert chat(max_tokens=3).asks()[0].max_new_tokens == 3
    newer = chat(max_tokens=3, max_completion_tokens=4).asks()[0]
    assert newer.max_new_tokens == 4
    assert newer.names["max_new_tokens"] == "max_completion_tokens"


def test_messages_for_the_template():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": parts, "name": "bob"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
    ]
    assert list(chat(messages=messages).asks()[0].inputs) == [
        {"role": "system", "content": "rules"},
        {"role": "user", "content": "ab", "name": "bob"},
        {"role": "assistant", "content": ""},
    ]


def completion(**fields):
    return parse(CompletionRequest, json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("prompt", "inputs"), [("x", "x"), (["x"], "x"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2)), ([], ())]
)
def test_prompts_of_completions(prompt, inputs):
    assert completion(prompt=prompt).asks()[0].inputs == inputs


def test_several_prompts_are_several_asks():
    assert [ask.inputs for ask in completion(prompt=["a", "b"]).asks()] == ["a", "b"]
    assert [ask.inputs for ask in completion(prompt=[[1], [2, 3]]).asks()] == [(1,), (2, 3)]


def test_what_completions_refuse():
    with pytest.raises(SuffixUnsupported):
        completion(prompt="a", suffix="b").asks()[0]
    for fields, param in (({"echo": True, "logprobs": 3}, "echo"), ({"stream": True, "best_of": 2}, "best_of")):
        with pytest.raises(InvalidRequest) as caught:
            completion(prompt="a", **fields).asks()
        assert caught.value.param == param
    with pytest.raises(InvalidRequest) as caught:
        completion(prompt=3)
    assert caught.value.param == "prompt"


def test_the_diffusion_extension():
    given = {"events": "none", "chunk": 4, "policy": "block", "confidence": 0.5}
    expected = {"chunk": 4, "policy": "block", "confidence": 0.5}
    assert generate(diffusion=given).ask(streaming=False).diffusion == expected
    assert chat(diffusion=given).asks()[0].diffusion == expected
