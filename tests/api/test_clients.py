"""The clients people use, against the real engine over a real socket."""

import asyncio

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import OverloadedError, ValidationError
from openai import APIError, AsyncOpenAI, OpenAI, RateLimitError, UnprocessableEntityError

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


@pytest.fixture
def hub(real):
    return InferenceClient(real.url)


@pytest.fixture
def openai(real):
    with OpenAI(base_url=real.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_hub_text_generation(hub):
    text = hub.text_generation("hello", max_new_tokens=12, return_full_text=False)
    assert isinstance(text, str)
    assert hub.text_generation("hello", max_new_tokens=12) == "hello" + text


def test_hub_text_generation_with_details(hub):
    result = hub.text_generation("hello", max_new_tokens=12, details=True, seed=5, temperature=1.0, top_k=4)
    details = result.details
    assert details.finish_reason in ("length", "eos_token")
    assert details.generated_tokens == len(details.tokens) <= 12
    assert details.seed == 5
    assert all(token.logprob <= 0 for token in details.tokens)


def test_hub_stream_is_the_whole_answer(hub):
    whole = hub.text_generation("hello", max_new_tokens=40, return_full_text=False)
    assert "".join(hub.text_generation("hello", max_new_tokens=40, stream=True)) == whole


def test_hub_stream_with_details(hub):
    events = list(hub.text_generation("hello", max_new_tokens=20, stream=True, details=True, return_full_text=False))
    assert [event.index for event in events] == list(range(1, len(events) + 1))
    assert events[-1].generated_text == "".join(event.token.text for event in events)
    assert events[-1].details.generated_tokens == len(events)
    assert events[-1].details.input_length > 0
    assert events[-1].diffusion["steps"] > 0


def test_hub_errors(hub, scripted):
    with pytest.raises(ValidationError, match="`top_k` must be strictly positive"):
        hub.text_generation("hello", top_k=-1)
    with pytest.raises(ValidationError, match="`top_k` must be strictly positive"):
        list(hub.text_generation("hello", top_k=-1, stream=True))
    busy = scripted(max_concurrent_requests=1)
    client = InferenceClient(busy.url)
    with busy.service.permit(), pytest.raises(OverloadedError):
        client.text_generation("hello")


def test_hub_chat(hub):
    answer = hub.chat_completion(MESSAGES, max_tokens=10, temperature=0.0)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens <= 10
    chunks = list(hub.chat_completion(MESSAGES, max_tokens=10, temperature=0.0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_hub_async(real):
    async def main():
        client = AsyncInferenceClient(real.url)
        stream = await client.text_generation("hello", max_new_tokens=10, stream=True)
        streamed = "".join([text async for text in stream])
        whole = await client.text_generation("hello", max_new_tokens=10, return_full_text=False)
        await client.close()
        return streamed, whole

    streamed, whole = asyncio.run(main())
    assert streamed == whole


def test_openai_chat(openai):
    answer = openai.chat.completions.create(
        model="any", messages=MESSAGES, max_completion_tokens=15, temperature=0, top_p=1, n=1, stop="\u0000"
    )
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.diffusion["type"] == "summary"
    stream = openai.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=15, temperature=0, stop="\u0000", stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert chunks[-1].usage == answer.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == answer.choices[0].message.content


def test_openai_takes_the_diffusion_extension(openai):
    answer = openai.chat.completions.create(
        model="any", messages=MESSAGES, max_tokens=15, temperature=0,
        extra_body={"diffusion": {"chunk": 1, "policy": "chunk"}},
    )  # fmt: skip
    assert answer.diffusion["chunk"] == {"min": 1, "max": 1, "mean": 1}
    assert answer.diffusion["tokens_per_step"] <= 1


def test_openai_completions(openai):
    whole = openai.completions.create(model="any", prompt="hello", max_tokens=12, temperature=0)
    stream = openai.completions.create(model="any", prompt="hello", max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_openai_seeds_reproduce(openai):
    def sample(seed):
        return (
            openai.completions.create(model="any", prompt="hello", max_tokens=30, temperature=2, seed=seed)
            .choices[0]
            .text
        )

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(5)}) > 1


def test_openai_models(openai):
    listed = openai.models.list().data
    assert openai.models.retrieve(listed[0].id).id == listed[0].id


def test_openai_errors(openai, scripted):
    with pytest.raises(UnprocessableEntityError) as caught:
        openai.chat.completions.create(model="any", messages=MESSAGES, max_tokens=0)
    assert caught.value.body["param"] == "max_tokens"
    assert "must be strictly positive" in caught.value.body["message"]
    with pytest.raises(UnprocessableEntityError, match="unknown parameter `fooo`"):
        openai.chat.completions.create(model="any", messages=MESSAGES, extra_body={"fooo": 1})
    busy = scripted(max_concurrent_requests=1)
    with OpenAI(base_url=busy.url + "/v1", api_key="none", max_retries=0) as client:
        with busy.service.permit(), pytest.raises(RateLimitError, match="overloaded"):
            client.chat.completions.create(model="any", messages=MESSAGES)
        busy.engine.answer = lambda request: [(10,)] * 50
        busy.engine.step_s = 0.01
        stream = client.chat.completions.create(model="any", messages=MESSAGES, stream=True)
        next(stream)
        busy.engine.explode = True
        with pytest.raises(APIError, match="script says so"):
            list(stream)


def test_openai_async_readers_side_by_side(real):
    async def main():
        async with AsyncOpenAI(base_url=real.url + "/v1", api_key="none") as client:

            async def one(i):
                stream = await client.chat.completions.create(
                    model="any", messages=[{"role": "user", "content": f"number {i}"}], max_tokens=30,
                    temperature=0, stream=True,
                )  # fmt: skip
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            together = await asyncio.gather(*(one(i) for i in range(12)))
            alone = [await one(i) for i in range(12)]
        return together, alone

    together, alone = asyncio.run(main())
    assert together == alone


def test_openai_responses(openai):
    asked = {"model": "any", "input": "hello", "max_output_tokens": 12, "temperature": 0}
    whole = openai.responses.create(**asked)
    assert (whole.status, whole.output[0].role) in {("completed", "assistant"), ("incomplete", "assistant")}
    events = list(openai.responses.create(**asked, stream=True, extra_body={"diffusion": {"events": "steps"}}))
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(said) == whole.output_text != ""
    assert events[-1].response.output_text == whole.output_text
    assert any(event.type == "response.diffusion.step" for event in events)


def test_openai_follows_a_response_to_its_end(scripted):
    live = scripted("hello world")
    with (
        OpenAI(base_url=live.url + "/v1", api_key="none") as client,
        client.responses.stream(model="any", input="hi") as stream,
    ):
        assert stream.get_final_response().output_text == "hello world"


def test_openai_logprobs_and_choices(openai):
    asked = {"model": "any", "messages": MESSAGES, "max_tokens": 6, "logprobs": True, "top_logprobs": 3}
    answer = openai.chat.completions.create(**asked, temperature=0)
    for entry in answer.choices[0].logprobs.content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob, abs=1e-6)
    several = openai.chat.completions.create(**asked, n=3, seed=1, temperature=1.5)
    again = openai.chat.completions.create(**asked, n=3, seed=1, temperature=1.5)
    assert [choice.message.content for choice in several.choices] == [c.message.content for c in again.choices]
    assert len({choice.message.content for choice in several.choices}) > 1


def test_steps_in_the_stream_harm_no_client(openai):
    extra = {"diffusion": {"events": "steps"}}
    asked = {"model": "any", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = openai.chat.completions.create(**asked).choices[0].message.content
    chunks = openai.chat.completions.create(**asked, stream=True, extra_body=extra)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
