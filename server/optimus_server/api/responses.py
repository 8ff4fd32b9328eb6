"""OpenAI's POST /v1/responses: text in, text out, and nothing remembered.

Deviations: what would need memory or tools (``store``, ``previous_response_id``, ``tools``) is refused by name, and the
response carries the ``diffusion`` summary as an extra key.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from typing import Any, ClassVar, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server.api.body import Body, Items, parse
from optimus_server.api.exchange import Exchange, desk_of, read_body
from optimus_server.api.leaving import unless_client_leaves
from optimus_server.api.logprobs import chat_logprobs, told
from optimus_server.api.schemas import Caller, Diffusion, StreamOptions
from optimus_server.api.sse import EventStream, named_event
from optimus_server.errors import InvalidRequest, OptimusError
from optimus_server.text.answer import Token
from optimus_server.text.ask import Ask


class InputPart(Body):
    """Text of a message; an answer's own parts may come back as they were."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class InputItem(Body):
    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Items[InputPart]
    id: str | None = None
    status: str | None = None

    def for_template(self) -> dict[str, Any]:
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ResponsesRequest(Caller):
    """Body of /v1/responses."""

    NEUTRAL: ClassVar[dict[str, tuple[Any, ...]]] = {
        "store": (False,),
        "background": (False,),
        "previous_response_id": (),
        "conversation": (),
        "prompt": (),
        "tools": ([],),
        "tool_choice": ("auto", "none"),
        "parallel_tool_calls": (True, False),
        "max_tool_calls": (),
        "reasoning": ({}, {"effort": "none"}),
        "text": ({"format": {"type": "text"}}, {}),
        "truncation": ("disabled",),
    }

    input: str | Items[InputItem]
    instructions: str | None = None
    model: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: Items[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusion: Diffusion | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None

    @property
    def wants_logprobs(self) -> bool:
        return "message.output_text.logprobs" in (self.include or ())

    def ask(self) -> Ask:
        if self.top_logprobs and not self.wants_logprobs:
            text = "`top_logprobs` needs `message.output_text.logprobs` in `include`"
            raise InvalidRequest(text, param="top_logprobs")
        items = [InputItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        said = [item.for_template() for item in items]
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return Ask(
            inputs=tuple(system + said) if said and self.input else (),
            openai=True,
            max_new_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_n_tokens=self.top_logprobs,
            diffusion=self.diffusion.given() if self.diffusion else {},
            traced=bool(self.diffusion and self.diffusion.traced(streaming=bool(self.stream))),
            refused=self.refused(),
            names={"inputs": "input", "max_new_tokens": "max_output_tokens", "top_n_tokens": "top_logprobs"},
        )


async def responses(request: Request) -> Response:
    """POST /v1/responses."""
    began = time.perf_counter()
    raw = await read_body(request)
    with ExitStack() as held:
        request_id = held.enter_context(desk_of(request).service.permit(request.state.request_id))
        body = parse(ResponsesRequest, raw)
        exchange = await Exchange.open(request, request_id, body.ask(), began)
        script = _Script(exchange, body)
        if body.stream:
            headers = exchange.stream_headers()
            return EventStream(script.events(), held.pop_all(), headers, script.error, wire=named_event)
        await unless_client_leaves(request, exchange.complete())
    return JSONResponse(script.response(done=True), headers=exchange.headers())


class _Script:
    """The response object, and the events that tell of its making."""

    def __init__(self, exchange: Exchange, body: ResponsesRequest) -> None:
        self._exchange, self._body = exchange, body
        self._created = int(time.time())
        self._sequence = 0
        self._item = f"msg_{exchange.id}"

    def response(self, *, done: bool) -> dict[str, Any]:
        exchange, body = self._exchange, self._body
        status = self._status() if done else "in_progress"
        params = exchange.prompt.params
        return {
            "id": f"resp_{exchange.id}",
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": exchange.desk.facts.model_id,
            "output": [self._message(done=True)] if done else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": params.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            "user": body.user,
            "metadata": body.metadata or {},
        } | ({"diffusion": exchange.summary()} if done else {})

    async def events(self) -> AsyncGenerator[bytes, None]:
        """What OpenAI sends for one message of one part of text, in its order."""
        place: dict[str, Any] = {"item_id": self._item, "output_index": 0, "content_index": 0}
        chunks = [
            self._event("response.created", response=self.response(done=False)),
            self._event("response.in_progress", response=self.response(done=False)),
            self._event("response.output_item.added", output_index=0, item=self._message(done=False)),
            self._event("response.content_part.added", **place, part=self._part("", [])),
        ]
        waiting: list[Token] = []
        async with aclosing(self._exchange.tokens()) as steps:
            async for _, tokens in steps:
                chunks += [
                    self._event("response.diffusion.step", diffusion=step) for step in self._exchange.steps_told()
                ]
                for token in tokens:
                    waiting += [] if token.special else [token]
                    if token.text:
                        logprobs = self._logprobs(waiting)
                        delta = self._event("response.output_text.delta", **place, delta=token.text, logprobs=logprobs)
                        chunks.append(delta)
                        waiting = []
                if chunks:
                    yield b"".join(chunks)
                chunks = []
        answer, message = self._exchange.answer, self._message(done=True)
        [part] = message["content"]
        yield b"".join(
            [
                self._event("response.output_text.done", **place, text=answer.text, logprobs=part["logprobs"]),
                self._event("response.content_part.done", **place, part=part),
                self._event("response.output_item.done", output_index=0, item=message),
                self._event(f"response.{self._status()}", response=self.response(done=True)),
            ]
        )

    def error(self, error: OptimusError) -> dict[str, Any]:
        """The event that ends a stream that failed."""
        self._sequence += 1
        return {
            "type": "error", "sequence_number": self._sequence,
            "code": error.code, "message": error.message, "param": error.param,
        }  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._sequence += 1
        return named_event({"type": kind, "sequence_number": self._sequence} | fields)

    def _status(self) -> str:
        return "incomplete" if self._exchange.answer.reason == "length" else "completed"

    def _message(self, *, done: bool) -> dict[str, Any]:
        answer = self._exchange.answer
        content = [self._part(answer.text, told(answer))] if done else []
        status = self._status() if done else "in_progress"
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": content}

    def _part(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[Token]) -> list[Any]:
        tokenizer = self._exchange.desk.prompter.tokenizer
        return list(chat_logprobs(tokens, tokenizer, 0)["content"]) if self._body.wants_logprobs else []

    def _usage(self) -> dict[str, Any]:
        prompt, generated = len(self._exchange.prompt.ids), len(self._exchange.answer)
        usage = self._exchange.answer.usage
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": usage.prefix_hit_tokens if usage else 0},
            "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + generated,
        }
