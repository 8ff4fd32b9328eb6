"""Step telemetry inside streams: valid chunks, and the same tokens with and without."""

import json

import pytest

from tests.web import BLOCK, END

STEPS = {"diffusion": {"events": "steps"}}
KEYS = {
    "v", "type", "t_ms", "step_ms", "chunk", "chunk_reason", "batch", "queue", "step", "block", "start", "stop",
    "masked", "commit", "revise", "frontier",
}  # fmt: skip


def check(told, ids, tokenizer):
    """Steps in order that commit the answer, counted from its beginning."""
    assert [step["step"] for step in told] == list(range(1, len(told) + 1))
    assert all(set(step) == KEYS for step in told)
    commits = [commit for step in told for commit in step["commit"]]
    assert commits == [[i, token, tokenizer.token_text(token), 0.75] for i, token in enumerate(ids)]
    assert told[-1]["frontier"] == len(ids)
    assert [step["t_ms"] for step in told] == sorted(step["t_ms"] for step in told)
    assert (told[0]["chunk"], told[0]["chunk_reason"], told[0]["batch"], told[0]["revise"]) == (3, "manual", 1, [])


def test_generate_stream(scripted, tokenizer):
    live = scripted("hello big world", step_s=0.002)
    plain = live.events("/generate_stream", {"inputs": "hi"})
    events = live.events("/generate_stream", {"inputs": "hi", "parameters": STEPS})
    carriers = [event for event in events if isinstance(event.get("diffusion"), list)]
    assert all(carrier["token"] == {"id": 1, "text": "", "logprob": 0.0, "special": True} for carrier in carriers)
    rest = [event for event in events if event not in carriers]
    assert [event["token"] for event in rest] == [event["token"] for event in plain]
    ids = [*tokenizer.encode("hello big world"), END]
    check([step for carrier in carriers for step in carrier["diffusion"]], ids, tokenizer)
    assert rest[-1]["diffusion"]["type"] == "summary"
    assert events.index(carriers[0]) == 0


@pytest.mark.parametrize(
    ("path", "body", "empty"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, {"delta": {}}),
        ("/v1/completions", {"prompt": "hi"}, {"text": ""}),
    ],
)
def test_openai_streams(scripted, tokenizer, path, body, empty):
    live = scripted("hello big world", step_s=0.002)
    chunks = live.events(path, body | STEPS | {"stream": True})[:-1]
    told = [chunk for chunk in chunks if chunk.get("diffusion", {}).get("type") == "step"]
    for chunk in told:
        assert chunk["choices"] == [{"index": 0, **empty, "logprobs": None, "finish_reason": None}]
    check([chunk["diffusion"] for chunk in told], [*tokenizer.encode("hello big world"), END], tokenizer)
    assert chunks[-1]["diffusion"]["type"] == "summary"


def test_responses(scripted, tokenizer):
    live = scripted("hello big world", step_s=0.002)
    lines = live.post("/v1/responses", {"input": "hi", "stream": True} | STEPS).text.split("\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert lines.count("event: response.diffusion.step") > 0
    told = [event["diffusion"] for event in events if event["type"] == "response.diffusion.step"]
    check(told, [*tokenizer.encode("hello big world"), END], tokenizer)
    assert [event["sequence_number"] for event in events] == list(range(1, len(events) + 1))


def test_steps_without_a_new_token_are_told_too(scripted):
    """Commits behind the frontier move no text; their step is still told, at once."""
    live = scripted(script=lambda request: [(), (10,), (), (11, END)], step_s=0.002)
    events = live.events("/generate_stream", {"inputs": "hi", "parameters": STEPS})
    told = [step for event in events if isinstance(event.get("diffusion"), list) for step in event["diffusion"]]
    assert [len(step["commit"]) for step in told] == [0, 1, 0, 2]
    assert [event["token"]["id"] for event in events if event["index"]] == [10, 11, END]


def test_blocks_are_counted_from_the_answers_first(scripted):
    live = scripted(script=lambda request: [(10,)] * 3 * BLOCK, step_s=0.001)
    events = live.events("/v1/completions", {"prompt": [9] * (BLOCK - 1), "stream": True} | STEPS)[:-1]
    blocks = [chunk["diffusion"]["block"] for chunk in events if chunk.get("diffusion", {}).get("type") == "step"]
    assert blocks == [(BLOCK - 1 + i) // BLOCK for i in range(1, 3 * BLOCK + 1)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "hi", "parameters": STEPS}),
        ("/", {"inputs": "hi", "parameters": STEPS}),
        ("/v1/completions", {"prompt": "hi"} | STEPS),
        ("/v1/responses", {"input": "hi"} | STEPS),
    ],
)
def test_without_a_stream_there_is_no_place_for_them(scripted, path, body):
    response = scripted("x").post(path, body)
    assert response.status_code == 422
    assert "`diffusion.events` needs a stream" in response.text


def test_nobody_listens_when_nobody_asks(scripted):
    live = scripted("hello")
    live.events("/generate_stream", {"inputs": "hi", "parameters": STEPS})
    assert live.service.traces._followers == {}
