"""TGI's routes that only tokenise: POST /tokenize and /chat_tokenize. They take no permit: nothing is decoded."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server.api.body import parse
from optimus_server.api.exchange import desk_of, read_body
from optimus_server.api.schemas import ChatRequest, GenerateRequest
from optimus_server.errors import InvalidRequest


async def tokenize(request: Request) -> Response:
    """POST /tokenize, a body as of /generate: each token with the characters of ``inputs`` it stands for."""
    body = parse(GenerateRequest, await read_body(request))
    tokenizer = desk_of(request).prompter.tokenizer
    if not body.inputs:
        raise InvalidRequest("`inputs` cannot be empty", param="inputs")

    def told() -> Response:
        spans = tokenizer.spans(body.inputs)
        return JSONResponse(
            [{"id": i, "text": body.inputs[start:stop], "start": start, "stop": stop} for i, start, stop in spans]
        )

    # 2 MB are a million tokens.
    return await asyncio.to_thread(told)


async def chat_tokenize(request: Request) -> Response:
    """POST /chat_tokenize, a body as of /v1/chat/completions: the rendered chat and its tokens."""
    body = parse(ChatRequest, await read_body(request))
    tokenizer = desk_of(request).prompter.tokenizer
    if not body.messages:
        raise InvalidRequest("`messages` cannot be empty", param="messages")

    def told() -> Response:
        ids, text = tokenizer.encode_chat([message.for_template() for message in body.messages])
        found, start = [], 0
        for token_id in ids:
            piece = tokenizer.token_text(token_id)
            found.append({"id": token_id, "text": piece, "start": start, "stop": start + len(piece)})
            start += len(piece)
        return JSONResponse({"tokenize_response": found, "templated_text": text})

    return await asyncio.to_thread(told)
