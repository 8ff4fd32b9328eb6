"""OpenAI's routes: POST /v1/chat/completions and /v1/completions.

The last chunk of a choice and every complete choice carry the ``diffusion`` summary as an extra key; a whole answer
with one choice has it at the top. ``model`` is accepted whatever it is, and answered with this server's.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server import __version__
from optimus_server.api.body import parse
from optimus_server.api.choices import best_first, check_count, complete, merged, open_choices
from optimus_server.api.exchange import Desk, Exchange, desk_of, read_body
from optimus_server.api.leaving import unless_client_leaves
from optimus_server.api.logprobs import chat_logprobs, completion_logprobs, told
from optimus_server.api.schemas import ChatRequest, CompletionRequest
from optimus_server.api.sse import DONE, EventStream, events
from optimus_server.errors import OptimusError
from optimus_server.text.answer import Token
from optimus_server.text.tokenizer import Tokenizer

Body = ChatRequest | CompletionRequest


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What chat and completions word differently.

    Attributes:
        body: the kind of request.
        prefix: of ids.
        whole, chunk: values of ``object``.
        content: text -> what a choice of a complete answer says.
        delta: new text -> what a choice of a chunk says.
        logprobs: tokens, tokenizer, characters before them -> ``logprobs`` of a choice.
    """

    body: type[Body]
    prefix: str
    whole: str
    chunk: str
    content: Callable[[str], dict[str, Any]]
    delta: Callable[[str], dict[str, Any]]
    logprobs: Callable[[Sequence[Token], Tokenizer, int], dict[str, Any]]


_CHAT = _Dialect(
    body=ChatRequest,
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    content=lambda text: {"message": {"role": "assistant", "content": text}},
    delta=lambda text: {"delta": {"content": text} if text else {}},
    logprobs=chat_logprobs,
)
_COMPLETION = _Dialect(
    body=CompletionRequest,
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    content=lambda text: {"text": text},
    delta=lambda text: {"text": text},
    logprobs=completion_logprobs,
)


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    return await _answer(request, _CHAT)


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    return await _answer(request, _COMPLETION)


async def answer_openai(request: Request, raw: bytes, *, chat: bool) -> Response:
    """Answer a body that came by another route."""
    return await _answer(request, _CHAT if chat else _COMPLETION, raw)


async def _answer(request: Request, dialect: _Dialect, raw: bytes | None = None) -> Response:
    began = time.perf_counter()
    raw = await read_body(request) if raw is None else raw
    with ExitStack() as held:
        request_id = held.enter_context(desk_of(request).service.permit(request.state.request_id))
        body = parse(dialect.body, raw)
        if isinstance(body, CompletionRequest) and body.several:
            check_count(request, len(body.prompt), "prompt")
        exchanges = await open_choices(request, held, request_id, body.asks(), began)
        if body.stream:
            writes, headers = _chunks(exchanges, body, dialect), exchanges[0].stream_headers()
            return EventStream(writes, held.pop_all(), headers, OptimusError.openai, end=DONE)
        await unless_client_leaves(request, complete(exchanges))
    return _whole(exchanges, body, dialect)


def _whole(exchanges: list[Exchange], body: Body, dialect: _Dialect) -> Response:
    usage = _usage(exchanges)
    wanted = [_Choice(i, exchange, body, dialect) for i, exchange in enumerate(_kept(exchanges, body))]
    result = _frame(wanted[0].exchange, dialect) | {
        "object": dialect.whole,
        "choices": [choice.whole() for choice in wanted],
        "usage": usage,
    }
    if len(wanted) == 1:
        result["diffusion"] = result["choices"][0].pop("diffusion")
    return JSONResponse(result, headers=wanted[0].exchange.headers())


def _kept(exchanges: list[Exchange], body: Body) -> list[Exchange]:
    """Of each prompt's answers the ``n`` best, if more were decoded."""
    each, n = exchanges[0].prompt.choices, body.n or 1
    if each == n:
        return exchanges
    groups = [exchanges[i : i + each] for i in range(0, len(exchanges), each)]
    return [exchange for group in groups for exchange in best_first(group)[:n]]


@dataclass(slots=True)
class _Choice:
    """One choice on its way to the client; ``waiting`` are tokens whose text is not complete yet."""

    index: int
    exchange: Exchange
    body: Body
    dialect: _Dialect
    waiting: list[Token] = field(default_factory=list)
    offset: int = 0

    def opening(self) -> list[dict[str, Any]]:
        """What a stream begins with: the role of a chat, the prompt of a completion that wants it back."""
        if isinstance(self.body, ChatRequest):
            return [self._with({"delta": {"role": "assistant", "content": ""}}, [])]
        return [self._with(self.dialect.delta(self.exchange.prompt.text), [])] if self.body.echo else []

    def chunks(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        """One choice of a chunk for each token that adds text; it also tells of the tokens that did not."""
        found = []
        for token in tokens:
            if not token.special:
                self.waiting.append(token)
            if token.text:
                found.append(self._with(self.dialect.delta(token.text), self.waiting))
                self.offset += len(token.text)
                self.waiting = []
        return found

    def nothing(self) -> dict[str, Any]:
        """The choice of a chunk that only tells of a step: every client accepts an empty delta."""
        return self._with(self.dialect.delta(""), [])

    def last(self) -> dict[str, Any]:
        told = [] if self.exchange.answer.reason == "stop_sequence" else self.waiting
        choice = self._with(self.dialect.delta(""), told)
        return choice | {"finish_reason": _finish_reason(self.exchange)}

    def whole(self) -> dict[str, Any]:
        echo = isinstance(self.body, CompletionRequest) and self.body.echo
        text = (self.exchange.prompt.text if echo else "") + self.exchange.answer.text
        choice = self._with(self.dialect.content(text), told(self.exchange.answer))
        return choice | {"finish_reason": _finish_reason(self.exchange), "diffusion": self.exchange.summary()}

    def _with(self, content: dict[str, Any], tokens: Sequence[Token]) -> dict[str, Any]:
        asked = self.body.wants_logprobs and (tokens or "message" in content)
        tokenizer = self.exchange.desk.prompter.tokenizer
        logprobs = self.dialect.logprobs(tokens, tokenizer, self.offset) if asked else None
        return {"index": self.index, **content, "logprobs": logprobs, "finish_reason": None}


async def _chunks(exchanges: list[Exchange], body: Body, dialect: _Dialect) -> AsyncGenerator[bytes, None]:
    """One chunk per token that adds text, those of a step together; at a choice's end one with the reason."""
    frame = _frame(exchanges[0], dialect) | {"object": dialect.chunk}
    if body.include_usage:
        frame["usage"] = None
    choices = {exchange: _Choice(i, exchange, body, dialect) for i, exchange in enumerate(exchanges)}
    chunks = [frame | {"choices": [opening]} for choice in choices.values() for opening in choice.opening()]
    running = len(choices)
    async with aclosing(merged(exchanges)) as steps:
        async for exchange, tokens in steps:
            choice = choices[exchange]
            chunks += [frame | {"choices": [choice.nothing()], "diffusion": step} for step in exchange.steps_told()]
            chunks += [frame | {"choices": [part]} for part in choice.chunks(tokens)]
            if exchange.answer.usage:
                chunks.append(frame | {"choices": [choice.last()], "diffusion": exchange.summary()})
                running -= 1
                if body.include_usage and not running:
                    chunks.append(frame | {"choices": [], "usage": _usage(exchanges)})
            yield events(chunks) + (b"" if running else DONE)
            chunks = []


def _frame(exchange: Exchange, dialect: _Dialect) -> dict[str, Any]:
    """The fields that every chunk of an answer repeats."""
    desk: Desk = exchange.desk
    return {
        "id": dialect.prefix + exchange.id,
        "object": "",
        "created": int(time.time()),
        "model": desk.facts.model_id,
        "system_fingerprint": f"optimus-{__version__}",
    }


def _finish_reason(exchange: Exchange) -> str:
    return "length" if exchange.answer.reason == "length" else "stop"


def _usage(exchanges: Sequence[Exchange]) -> dict[str, Any]:
    """Of all choices; a prompt counts once, however many answers it got."""
    each = exchanges[0].prompt.choices
    prompt = sum(len(exchange.prompt.ids) for exchange in exchanges[::each])
    generated = sum(len(exchange.answer) for exchange in exchanges)
    cached = sum(e.answer.usage.prefix_hit_tokens for e in exchanges[::each] if e.answer.usage)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
