"""Request bodies: their fields and types. Ranges are checked in ``text.prompt``, which words them as TGI does.

What the server cannot honour is known here by name, so that its neutral value passes and any other is refused.
"""

from typing import Any, ClassVar, Literal

from optimus_server.api.body import Body, Items
from optimus_server.errors import InvalidRequest, SuffixUnsupported
from optimus_server.text.ask import Ask


class Diffusion(Body):
    """How one request is decoded. ``threshold`` and ``confidence`` are two names of one thing."""

    events: Literal["none", "steps"] | None = None
    chunk: int | Literal["auto"] | None = None
    tpot_slo_ms: float | None = None
    policy: str | None = None
    threshold: float | None = None
    confidence: float | None = None
    unmask: str | None = None
    transfer: int | None = None
    entropy_bound: float | None = None

    def traced(self, *, streaming: bool) -> bool:
        """Whether steps are told.

        Raises:
            InvalidRequest: outside of a stream there is no place for them.
        """
        if self.events == "steps" and not streaming:
            raise InvalidRequest("`diffusion.events` needs a stream", param="diffusion.events")
        return self.events == "steps"

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude={"events"})


class Parameters(Body):
    """``parameters`` of TGI's routes."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "watermark": (False,),
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
    stop: Items[str] | None = None
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
            traced=bool(p.diffusion and p.diffusion.traced(streaming=streaming)),
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
    content: str | Items[TextPart] | None = None
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


class Caller(Body):
    """What OpenAI's clients say about themselves; it changes no answer."""

    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None


class OpenAIBody(Caller):
    """What /v1/chat/completions and /v1/completions share."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "logit_bias": ({},),
        "store": (False,),
    }

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | Items[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusion: Diffusion | None = None
    n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    store: bool | None = None

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
            "n": self.n,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "diffusion": self.diffusion.given() if self.diffusion else {},
            "traced": bool(self.diffusion and self.diffusion.traced(streaming=bool(self.stream))),
            "refused": self.refused(),
        }


class ChatRequest(OpenAIBody):
    """Body of /v1/chat/completions."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = OpenAIBody.NEUTRAL | {
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "tool_prompt": (),
        "parallel_tool_calls": (False, True),
        "modalities": (["text"],),
        "reasoning_effort": ("none",),
    }

    messages: Items[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    tool_prompt: str | None = None
    parallel_tool_calls: bool | None = None
    modalities: Items[str] | None = None
    reasoning_effort: str | None = None

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.logprobs)

    def asks(self) -> list[Ask]:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("`top_logprobs` needs `logprobs` to be true", param="top_logprobs")
        newer = self.max_completion_tokens is not None
        ask = Ask(
            inputs=tuple(message.for_template() for message in self.messages),
            max_new_tokens=self.max_completion_tokens if newer else self.max_tokens,
            top_n_tokens=self.top_logprobs,
            names={
                "inputs": "messages",
                "max_new_tokens": "max_completion_tokens" if newer else "max_tokens",
                "top_n_tokens": "top_logprobs",
            },
            **self.common(),
        )
        return [ask]


class CompletionRequest(OpenAIBody):
    """Body of /v1/completions; a prompt may be text or ids, or a list of such."""

    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    suffix: str | None = None
    best_of: int | None = None
    logprobs: int | None = None
    echo: bool | None = None

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None

    def asks(self) -> list[Ask]:
        if self.suffix:
            raise SuffixUnsupported(
                "Suffix is not supported and can be achieved by preprocessing the prompt.", param="suffix"
            )
        if self.echo and self.wants_logprobs:
            raise InvalidRequest("`echo` is not supported together with `logprobs`", param="echo")
        if self.stream and (self.best_of or 1) > (self.n or 1):
            raise InvalidRequest("`best_of` > `n` is not supported when streaming tokens", param="best_of")
        prompt: Any = self.prompt
        return [self._ask(one) for one in (prompt if self.several else [prompt])]

    @property
    def several(self) -> bool:
        """Whether ``prompt`` is a list of prompts."""
        return isinstance(self.prompt, list) and bool(self.prompt) and not isinstance(self.prompt[0], int)

    def _ask(self, prompt: Any) -> Ask:
        return Ask(
            inputs=prompt if isinstance(prompt, str) else tuple(prompt),
            max_new_tokens=self.max_tokens,
            best_of=self.best_of,
            top_n_tokens=self.logprobs,
            names={"inputs": "prompt", "max_new_tokens": "max_tokens", "top_n_tokens": "logprobs"},
            **self.common(),
        )
