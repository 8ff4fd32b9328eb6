"""SageMaker's and Vertex AI's routes."""

import pytest

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def test_invocations_answer_as_the_route_their_body_is_of(scripted):
    live = scripted("hello")
    assert live.post("/invocations", {"inputs": "a"}).json() == [{"generated_text": "ahello"}]
    assert live.post("/invocations", CHAT).json()["choices"][0]["message"]["content"] == "hello"
    assert live.post("/invocations", {"prompt": "a"}).json()["choices"][0]["text"] == "hello"
    assert live.events("/invocations", CHAT | {"stream": True})[-1] == "[DONE]"
    assert live.events("/invocations", {"inputs": "a", "stream": True})[-1]["generated_text"] == "ahello"
    response = live.post("/invocations", {"input": "a"})
    assert response.status_code == 422
    assert response.json()["error"] == "Input validation error: missing field `inputs`, `messages` or `prompt`"


def test_vertex(scripted):
    live = scripted("hello")
    instances = [{"inputs": "a", "parameters": {"max_new_tokens": 9}}, CHAT]
    assert live.post("/vertex", {"instances": instances}).json() == {"predictions": ["hello", "hello"]}
    assert live.engine.seen[0].params.max_new_tokens == 9


@pytest.mark.parametrize(
    "body",
    [{"instances": []}, {"instances": [CHAT | {"n": 2}]}, {"instances": [{"inputs": 1}]}, {"instances": [1]}, {}],
)
def test_what_vertex_refuses(scripted, body):
    live = scripted()
    response = live.post("/vertex", body)
    assert response.status_code == 422
    assert response.json()["error_type"] == "validation"
    assert live.service.idle
