"""OpenAI's routes: POST /v1/chat/completions and /v1/completions.

The last chunk and every complete answer carry the ``diffusion`` summary as an extra key. ``model`` is
accepted whatever it is, and answered with this server's.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server import __version__
from optimus_server.api.body import parse
from optimus_server.api.exchange import Exchange, desk_of, read_body, unless_client_leaves
from optimus_server.api.schemas import ChatRequest, CompletionRequest, OpenAIBody
from optimus_server.api.sse import DONE, EventStream, events, guarded
from optimus_server.errors import OptimusError


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What chat and completions word differently.

    Attributes:
        body: the kind of request.
        prefix: of ids.
        whole, chunk: values of ``object``.
        choice: text, finish reason -> a choice of a complete answer.
        delta: new text, finish reason -> a choice of a chunk.
        opening: the choice that begins a stream, if there is one.
    """

    body: type[ChatRequest] | type[CompletionRequest]
    prefix: str
    whole: str
    chunk: str
    choice: Callable[[str, str | None], dict[str, Any]]
    delta: Callable[[str, str | None], dict[str, Any]]
    opening: dict[str, Any] | None = None


def _choice(content: dict[str, Any], reason: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": reason}


_CHAT = _Dialect(
    body=ChatRequest,
    prefix="chatcmpl-",
    whole="chat.completion",
    chunk="chat.completion.chunk",
    choice=lambda text, reason: _choice({"message": {"role": "assistant", "content": text}}, reason),
    delta=lambda text, reason: _choice({"delta": {"content": text} if text else {}}, reason),
    opening=_choice({"delta": {"role": "assistant", "content": ""}}, None),
)
_COMPLETION = _Dialect(
    body=CompletionRequest,
    prefix="cmpl-",
    whole="text_completion",
    chunk="text_completion",
    choice=lambda text, reason: _choice({"text": text}, reason),
    delta=lambda text, reason: _choice({"text": text}, reason),
)


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    return await _answer(request, _CHAT)


async def completions(request: Request) -> Response:
    """POST /v1/completions."""
    return await _answer(request, _COMPLETION)


async def _answer(request: Request, dialect: _Dialect) -> Response:
    began = time.perf_counter()
    raw = await read_body(request)
    with ExitStack() as held:
        request_id = held.enter_context(desk_of(request).service.permit(request.state.request_id))
        body = parse(dialect.body, raw)
        exchange = await Exchange.open(request, request_id, body.ask(), began)
        frame = _frame(exchange, dialect)
        if body.stream:
            writes = guarded(_chunks(exchange, body, dialect, frame), OptimusError.openai, end=DONE)
            return EventStream(writes, held.pop_all(), exchange.stream_headers())
        answer = await unless_client_leaves(request, exchange.complete())
    result = frame | {
        "object": dialect.whole,
        "choices": [dialect.choice(answer.text, _finish_reason(exchange))],
        "usage": _usage(exchange),
        "diffusion": exchange.summary(),
    }
    return JSONResponse(result, headers=exchange.headers())


async def _chunks(
    exchange: Exchange, body: OpenAIBody, dialect: _Dialect, frame: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """One chunk per token that adds text, those of a step together, then one with the reason of the end."""
    frame = frame | {"object": dialect.chunk}
    if body.include_usage:
        frame["usage"] = None
    chunks = [frame | {"choices": [dialect.opening]}] if dialect.opening else []
    async with aclosing(exchange.tokens()) as steps:
        async for tokens in steps:
            chunks += [frame | {"choices": [dialect.delta(token.text, None)]} for token in tokens if token.text]
            if exchange.answer.usage:
                last = dialect.delta("", _finish_reason(exchange))
                chunks.append(frame | {"choices": [last], "diffusion": exchange.summary()})
                if body.include_usage:
                    chunks.append(frame | {"choices": [], "usage": _usage(exchange)})
            yield events(chunks)
            chunks = []


def _frame(exchange: Exchange, dialect: _Dialect) -> dict[str, Any]:
    """The fields that every chunk of an answer repeats."""
    return {
        "id": dialect.prefix + exchange.id,
        "object": "",
        "created": int(time.time()),
        "model": exchange.desk.facts.model_id,
        "system_fingerprint": f"optimus-{__version__}",
    }


def _finish_reason(exchange: Exchange) -> str:
    return "length" if exchange.answer.reason == "length" else "stop"


def _usage(exchange: Exchange) -> dict[str, Any]:
    prompt, generated = len(exchange.prompt.ids), len(exchange.answer.tokens)
    usage = exchange.answer.usage
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": usage.prefix_hit_tokens if usage else 0},
    }
