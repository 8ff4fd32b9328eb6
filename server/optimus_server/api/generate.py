"""TGI's routes: POST /generate, /generate_stream, / and its alias /v1.

Two deviations in what answers hold: the text of a special token, the end token included, is empty, so that
clients which just join texts show no ``<|end|>``; and final events and ``details`` carry a ``diffusion`` summary.
"""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server.api.body import parse
from optimus_server.api.exchange import Exchange, desk_of, read_body, unless_client_leaves
from optimus_server.api.schemas import GenerateRequest, Parameters
from optimus_server.api.sse import EventStream, events, guarded
from optimus_server.errors import OptimusError
from optimus_server.text.answer import Token


async def generate(request: Request) -> Response:
    """POST /generate: one object. ``stream`` in the body is ignored, as in TGI."""
    return await _answer(request, streams=False)


async def generate_stream(request: Request) -> Response:
    """POST /generate_stream: server-sent events."""
    return await _answer(request, streams=True)


async def compat(request: Request) -> Response:
    """POST /, which huggingface_hub calls: a list of one object, or a stream if the body says so.

    ``return_full_text`` is true by default for a model whose task is not known, as that of any local
    directory.
    """
    return await _answer(request, streams=None, listed=True, full_text=True)


async def _answer(request: Request, *, streams: bool | None, listed: bool = False, full_text: bool = False) -> Response:
    began = time.perf_counter()
    raw = await read_body(request)
    with ExitStack() as held:
        request_id = held.enter_context(desk_of(request).service.permit(request.state.request_id))
        body = parse(GenerateRequest, raw)
        streaming = bool(body.stream) if streams is None else streams
        parameters = body.parameters or Parameters()
        if parameters.return_full_text is not None:
            full_text = parameters.return_full_text
        details = bool(parameters.details)
        exchange = await Exchange.open(request, request_id, body.ask(streaming=streaming), began)
        if streaming:
            writes = guarded(_events(exchange, full_text=full_text, details=details), OptimusError.tgi)
            return EventStream(writes, held.pop_all(), exchange.stream_headers())
        await unless_client_leaves(request, exchange.complete())
    result = _result(exchange, full_text=full_text, details=details)
    return JSONResponse([result] if listed else result, headers=exchange.headers())


async def _events(exchange: Exchange, *, full_text: bool, details: bool) -> AsyncGenerator[bytes, None]:
    """One event per token, those of a step together; the last one has the text and, if asked, the details."""
    index = 0
    async with aclosing(exchange.tokens()) as steps:
        async for tokens in steps:
            payloads: list[dict[str, Any]] = [
                {"index": i, "token": _token(token), "generated_text": None, "details": None}
                for i, token in enumerate(tokens, start=index + 1)
            ]
            index += len(tokens)
            if exchange.answer.usage:
                payloads[-1] |= {
                    "generated_text": _text(exchange, full_text=full_text),
                    "details": _end(exchange) if details else None,
                    "diffusion": exchange.summary(),
                }
            yield events(payloads)


def _result(exchange: Exchange, *, full_text: bool, details: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"generated_text": _text(exchange, full_text=full_text)}
    if details:
        end = _end(exchange)
        del end["input_length"]
        tokens = [_token(token) for token in exchange.answer.tokens]
        result["details"] = end | {"prefill": [], "tokens": tokens, "diffusion": exchange.summary()}
    return result


def _text(exchange: Exchange, *, full_text: bool) -> str:
    return (exchange.prompt.text if full_text else "") + exchange.answer.text


def _token(token: Token) -> Mapping[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def _end(exchange: Exchange) -> dict[str, Any]:
    answer, prompt = exchange.answer, exchange.prompt
    return {
        "finish_reason": answer.reason,
        "generated_tokens": len(answer.tokens),
        "input_length": len(prompt.ids),
        "seed": prompt.seed,
    }
