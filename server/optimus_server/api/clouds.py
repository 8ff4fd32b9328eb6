"""How clouds wrap a model: POST /invocations (SageMaker) and /vertex (Vertex AI), with TGI's bodies."""

import json
import time
from contextlib import ExitStack

from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server.api.body import Body, Items, parse
from optimus_server.api.chat import answer_openai
from optimus_server.api.choices import check_count, complete, open_choices
from optimus_server.api.exchange import desk_of, read_body
from optimus_server.api.generate import answer_tgi
from optimus_server.api.leaving import unless_client_leaves
from optimus_server.api.schemas import ChatRequest, GenerateRequest
from optimus_server.errors import InvalidRequest
from optimus_server.text.ask import Ask


class _Fields(Body):
    """Any JSON object."""

    model_config = Body.model_config | {"extra": "allow"}


class VertexRequest(Body):
    instances: Items[dict[str, JsonValue]]


async def invocations(request: Request) -> Response:
    """POST /invocations: a body of ``/``, of chat completions or of completions, whichever its fields say."""
    raw = await read_body(request)
    given = parse(_Fields, raw).model_extra or {}
    if "inputs" in given:
        return await answer_tgi(request, raw)
    if "messages" in given or "prompt" in given:
        return await answer_openai(request, raw, chat="messages" in given)
    raise InvalidRequest("missing field `inputs`, `messages` or `prompt`", param="inputs")


async def vertex(request: Request) -> Response:
    """POST /vertex: ``{instances: [...]}`` -> ``{predictions: [text, ...]}``, decoded side by side."""
    began = time.perf_counter()
    raw = await read_body(request)
    with ExitStack() as held:
        request_id = held.enter_context(desk_of(request).service.permit(request.state.request_id))
        instances = parse(VertexRequest, raw).instances
        if not instances:
            raise InvalidRequest("`instances` cannot be empty", param="instances")
        check_count(request, len(instances), "instances")
        asks = [_ask(instance) for instance in instances]
        exchanges = await open_choices(request, held, request_id, asks, began)
        await unless_client_leaves(request, complete(exchanges))
    return JSONResponse({"predictions": [exchange.answer.text for exchange in exchanges]})


def _ask(instance: dict[str, JsonValue]) -> Ask:
    raw = json.dumps(instance).encode()
    if "messages" in instance:
        [ask] = parse(ChatRequest, raw).asks()
    else:
        ask = parse(GenerateRequest, raw).ask(streaming=False)
    if max(ask.n or 1, ask.best_of or 1) > 1:
        raise InvalidRequest("an instance has one prediction: leave `n` and `best_of` out", param="instances")
    return ask
