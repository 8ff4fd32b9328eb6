"""TGI's routes: POST /generate, /generate_stream, / and its alias /v1.

Two deviations in what answers hold: the text of a special token, the end token included, is empty, so that
clients which just join texts show no ``<|end|>``; and final events and ``details`` carry a ``diffusion`` summary.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server.api.body import parse
from optimus_server.api.choices import best_first, complete, open_choices
from optimus_server.api.exchange import Exchange, desk_of, read_body
from optimus_server.api.leaving import unless_client_leaves
from optimus_server.api.logprobs import tgi_token, tgi_top
from optimus_server.api.schemas import GenerateRequest, Parameters
from optimus_server.api.sse import EventStream, events
from optimus_server.errors import OptimusError


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


async def answer_tgi(request: Request, raw: bytes) -> Response:
    """Answer a body of ``POST /`` that came by another route."""
    return await _answer(request, streams=None, listed=True, full_text=True, raw=raw)


async def _answer(
    request: Request,
    *,
    streams: bool | None,
    listed: bool = False,
    full_text: bool = False,
    raw: bytes | None = None,
) -> Response:
    began = time.perf_counter()
    raw = await read_body(request) if raw is None else raw
    with ExitStack() as held:
        request_id = held.enter_context(desk_of(request).service.permit(request.state.request_id))
        body = parse(GenerateRequest, raw)
        streaming = bool(body.stream) if streams is None else streams
        parameters = body.parameters or Parameters()
        if parameters.return_full_text is None:
            parameters = parameters.model_copy(update={"return_full_text": full_text})
        exchanges = await open_choices(request, held, request_id, [body.ask(streaming=streaming)], began)
        if streaming:
            writes, headers = _events(exchanges[0], parameters), exchanges[0].stream_headers()
            return EventStream(writes, held.pop_all(), headers, OptimusError.tgi)
        await unless_client_leaves(request, complete(exchanges))
    best, *others = best_first(exchanges)
    result = _result(best, others, parameters)
    return JSONResponse([result] if listed else result, headers=best.headers())


async def _events(exchange: Exchange, parameters: Parameters) -> AsyncGenerator[bytes, None]:
    """One event per token, those of a step together; the last one has the text and, if asked, the details."""
    index = 0
    tokenizer = exchange.desk.prompter.tokenizer
    async with aclosing(exchange.tokens()) as steps:
        async for _, tokens in steps:
            payloads: list[dict[str, Any]] = [
                {"index": i, "token": tgi_token(token), "generated_text": None, "details": None}
                | ({"top_tokens": tgi_top(token.top, tokenizer)} if token.top else {})
                for i, token in enumerate(tokens, start=index + 1)
            ]
            index += len(tokens)
            if told := exchange.steps_told():
                payloads.insert(0, _nothing(exchange) | {"diffusion": told})
            if exchange.answer.usage:
                payloads[-1] |= {
                    "generated_text": _text(exchange, parameters),
                    "details": _end(exchange) if parameters.details else None,
                    "diffusion": exchange.summary(),
                }
            yield events(payloads)


def _nothing(exchange: Exchange) -> dict[str, Any]:
    """An event that only tells of steps: every client accepts an empty special token."""
    token = {"id": exchange.desk.facts.mask_token_id or 0, "text": "", "logprob": 0.0, "special": True}
    return {"index": 0, "token": token, "generated_text": None, "details": None}


def _result(best: Exchange, others: list[Exchange], parameters: Parameters) -> dict[str, Any]:
    result: dict[str, Any] = {"generated_text": _text(best, parameters)}
    if parameters.details:
        sequences = [{"generated_text": _text(e, parameters)} | _details(e, parameters) for e in others]
        result["details"] = (
            _details(best, parameters)
            | {"diffusion": best.summary()}
            | ({"best_of_sequences": sequences} if sequences else {})
        )
    return result


def _details(exchange: Exchange, parameters: Parameters) -> dict[str, Any]:
    """``details`` of a complete answer. No step predicts a prompt's tokens, so they have no log-probability."""
    tokenizer, tokens = exchange.desk.prompter.tokenizer, exchange.answer.tokens
    prompt = exchange.prompt.ids if parameters.decoder_input_details else ()
    end = _end(exchange)
    del end["input_length"]
    return (
        end
        | {
            "prefill": [{"id": i, "text": tokenizer.token_text(i), "logprob": None} for i in prompt],
            "tokens": [tgi_token(token) for token in tokens],
        }
        | ({"top_tokens": [tgi_top(t.top, tokenizer) for t in tokens]} if parameters.top_n_tokens else {})
    )


def _text(exchange: Exchange, parameters: Parameters) -> str:
    return (exchange.prompt.text if parameters.return_full_text else "") + exchange.answer.text


def _end(exchange: Exchange) -> dict[str, Any]:
    answer, prompt = exchange.answer, exchange.prompt
    return {
        "finish_reason": answer.reason,
        "generated_tokens": len(answer),
        "input_length": len(prompt.ids),
        "seed": prompt.seed,
    }
