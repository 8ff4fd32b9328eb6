"""Request bodies: their fields and types. Ranges are checked in ``text.prompt``, which words them as TGI does.

What the server cannot honour is known here by name, so that its neutral value passes and any other is refused.
"""

from typing import Any, ClassVar, Literal

from optimus_server.api.body import Body
from optimus_server.errors import InvalidRequest, SuffixUnsupported, TooManyPrompts
from optimus_server.text.prompt import Ask


class Diffusion(Body):
    """How one request is decoded. ``threshold`` and ``confidence`` are two names of one thing."""

    events: Literal["none"] | None = None
    chunk: int | None = None
    policy: str | None = None
    threshold: float | None = None
    confidence: float | None = None
    unmask: str | None = None
    transfer: int | None = None
    entropy_bound: float | None = None

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude={"events"})


class Parameters(Body):
    """``parameters`` of TGI's routes."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "repetition_penalty": (1.0,),
        "frequency_penalty": (0.0,),
        "typical_p": (),
        "watermark": (False,),
        "decoder_input_details": (False,),
        "grammar": (),
        "adapter_id": (),
    }

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool | None = None
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] | None = None
    truncate: int | None = None
    watermark: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: dict[str, Any] | None = None
    adapter_id: str | None = None
    diffusion: Diffusion | None = None


class GenerateRequest(Body):
    """Body of ``/generate``, ``/generate_stream`` and ``/``; only the last looks at ``stream``."""

    inputs: str
    parameters: Parameters | None = None
    stream: bool | None = None

    def ask(self, *, streaming: bool) -> Ask:
        """TGI's defaults: without ``parameters`` it samples, with them only if they say so."""
        if self.parameters is None:
            return Ask(inputs=self.inputs, do_sample=True)
        p = self.parameters
        if streaming:
            if (p.best_of or 1) > 1:
                raise InvalidRequest("`best_of` != 1 is not supported when streaming tokens", param="best_of")
            if p.decoder_input_details:
                text = "`decoder_input_details` == true is not supported when streaming tokens"
                raise InvalidRequest(text, param="decoder_input_details")
        return Ask(
            inputs=self.inputs,
            do_sample=bool(p.do_sample),
            temperature=p.temperature,
            top_k=p.top_k,
            top_p=p.top_p,
            max_new_tokens=p.max_new_tokens,
            stop=tuple(p.stop or ()),
            truncate=p.truncate,
            seed=p.seed,
            best_of=p.best_of,
            repetition_penalty=p.repetition_penalty,
            frequency_penalty=p.frequency_penalty,
            typical_p=p.typical_p,
            top_n_tokens=p.top_n_tokens,
            diffusion=p.diffusion.given() if p.diffusion else {},
            refused=p.refused(),
        )


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """One message; the fields that are null in OpenAI's own answers may come back as null."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def for_template(self) -> dict[str, Any]:
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        # Templates know no developer; it is what newer clients call the system.
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content or ""} | ({"name": self.name} if self.name else {})


class OpenAIBody(Body):
    """What /v1/chat/completions and /v1/completions share."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "n": (1,),
        "best_of": (1,),
        "frequency_penalty": (0.0,),
        "presence_penalty": (0.0,),
        "repetition_penalty": (1.0,),
        "logit_bias": ({},),
        "store": (False,),
    }

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusion: Diffusion | None = None
    n: int | None = None
    best_of: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    store: bool | None = None
    # About the caller, not about the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def common(self) -> dict[str, Any]:
        """The fields of ``Ask`` that both routes fill in the same way."""
        return {
            "openai": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "diffusion": self.diffusion.given() if self.diffusion else {},
            "refused": self.refused(),
        }


class ChatRequest(OpenAIBody):
    """Body of /v1/chat/completions."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = OpenAIBody.NEUTRAL | {
        "logprobs": (False,),
        "top_logprobs": (0,),
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "tool_prompt": (),
        "parallel_tool_calls": (False, True),
        "modalities": (["text"],),
        "reasoning_effort": ("none",),
    }

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    reasoning_effort: str | None = None

    def ask(self) -> Ask:
        newer = self.max_completion_tokens is not None
        return Ask(
            inputs=tuple(message.for_template() for message in self.messages),
            max_new_tokens=self.max_completion_tokens if newer else self.max_tokens,
            names={
                "inputs": "messages",
                "max_new_tokens": "max_completion_tokens" if newer else "max_tokens",
            },
            **self.common(),
        )


class CompletionRequest(OpenAIBody):
    """Body of /v1/completions; a prompt may be text or ids, or a list of one such."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = OpenAIBody.NEUTRAL | {
        "logprobs": (),
        "echo": (False,),
    }

    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    logprobs: int | None = None
    echo: bool | None = None

    def ask(self) -> Ask:
        if self.suffix:
            raise SuffixUnsupported(
                "Suffix is not supported and can be achieved by preprocessing the prompt.", param="suffix"
            )
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise TooManyPrompts("Number of prompts exceeds the maximum allowed batch size of 1", param="prompt")
            prompt = prompt[0]
        inputs = prompt if isinstance(prompt, str) else tuple(i for i in prompt if isinstance(i, int))
        return Ask(
            inputs=inputs,
            max_new_tokens=self.max_tokens,
            names={"inputs": "prompt", "max_new_tokens": "max_tokens"},
            **self.common(),
        )
