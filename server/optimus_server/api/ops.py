"""Routes that ask about the server: health, information, models."""

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server import __version__
from optimus_server.api.exchange import desk_of
from optimus_server.errors import Refused

UNSUPPORTED = (
    "watermark", "grammar", "adapter_id", "logit_bias", "response_format", "suffix", "tools",
)  # fmt: skip
"""Parameters of TGI or OpenAI that only pass with their neutral value."""


async def health(request: Request) -> Response:
    """GET /, /health, /ping, /readyz: an empty 200, or a 503 while draining and when the engine is dead or stuck."""
    if desk_of(request).service.problem is None:
        return Response()
    body = {"error": "unhealthy", "error_type": "healthcheck"}
    return JSONResponse(body, status_code=503, headers={"retry-after": "5"})


async def live(request: Request) -> Response:
    """GET /livez: 503 only if a restart is the cure. While draining a server lives, but is not ready (/readyz)."""
    if desk_of(request).service.broken is None:
        return Response()
    return JSONResponse({"error": "unhealthy", "error_type": "healthcheck"}, status_code=503)


async def info(request: Request) -> Response:
    """GET /info: what TGI's has, older TGI fields that clients still print, and ``diffusion``."""
    desk = desk_of(request)
    settings, rules, facts = desk.settings, desk.prompter.rules, desk.facts
    body: dict[str, Any] = {
        "model_id": facts.model_id,
        "model_sha": None,
        "model_pipeline_tag": None,
        "model_dtype": facts.dtype,
        "model_device_type": facts.device,
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_best_of": rules.max_best_of,
        "max_stop_sequences": rules.max_stop_sequences,
        "max_input_tokens": rules.max_input_tokens,
        "max_input_length": rules.max_input_tokens,
        "max_total_tokens": rules.max_total_tokens,
        "max_batch_total_tokens": facts.kv_tokens,
        "max_batch_size": settings.max_batch_size,
        "max_waiting_tokens": 0,
        "waiting_served_ratio": 0.0,
        "validation_workers": 1,
        "max_client_batch_size": rules.max_choices,
        "router": "optimus",
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "diffusion": {
            "decoder": facts.model_type,
            "block_length": rules.block_size,
            "chunk_policy": rules.policy,
            "chunk": rules.chunk or "auto",
            "chunk_min": 1,
            "chunk_max": 2 * rules.block_size,
            "ladder": facts.ladder,
            "threshold": rules.threshold,
            "mask_token_id": facts.mask_token_id,
            "unsupported_parameters": list(UNSUPPORTED),
        },
    }
    return JSONResponse(body)


async def metrics(request: Request) -> Response:
    """GET /metrics, in Prometheus' text format."""
    return Response(desk_of(request).ledger.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def models(request: Request) -> Response:
    """GET /v1/models."""
    return JSONResponse({"object": "list", "data": [_model(desk_of(request).facts.model_id)]})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}; ids contain slashes."""
    served = desk_of(request).facts.model_id
    wanted = request.path_params["model_id"]
    if wanted.strip("/") != served.strip("/"):
        message = f"The model `{wanted}` does not exist; this server has `{served}`"
        raise Refused(message, status=404, code="model_not_found")
    return JSONResponse(_model(served))


def _model(model_id: str) -> dict[str, Any]:
    return {"id": model_id, "object": "model", "created": 0, "owned_by": model_id}
