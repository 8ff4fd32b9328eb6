"""What the server speaks, as an OpenAPI document and as a page: both from the bodies' own types."""

from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from optimus_server import __version__
from optimus_server.api.body import Body
from optimus_server.api.clouds import VertexRequest
from optimus_server.api.responses import ResponsesRequest
from optimus_server.api.schemas import ChatRequest, CompletionRequest, GenerateRequest

_TGI, _OPENAI, _OPERATIONS = "Text Generation Inference", "OpenAI", "Operations"

POSTS: dict[str, tuple[type[Body] | None, str, str]] = {
    "/": (GenerateRequest, _TGI, "A list of one answer, or a stream if the body says so"),
    "/generate": (GenerateRequest, _TGI, "One answer"),
    "/generate_stream": (GenerateRequest, _TGI, "An answer as server-sent events"),
    "/tokenize": (GenerateRequest, _TGI, "The tokens of a prompt"),
    "/chat_tokenize": (ChatRequest, _TGI, "The tokens of a chat, as its template renders it"),
    "/invocations": (None, _TGI, "SageMaker: a body of /, /v1/chat/completions or /v1/completions"),
    "/vertex": (VertexRequest, _TGI, "Vertex AI: several prompts at once"),
    "/v1": (GenerateRequest, _TGI, "As POST /"),
    "/v1/chat/completions": (ChatRequest, _OPENAI, "A chat, whole or streamed"),
    "/v1/completions": (CompletionRequest, _OPENAI, "A completion, whole or streamed"),
    "/v1/responses": (ResponsesRequest, _OPENAI, "A response, whole or streamed; nothing is stored"),
}
"""Path -> its body, its family and what it answers."""

GETS: dict[str, tuple[str, str]] = {
    "/": ("", "As /health"),
    "/health": ("", "200 if the server takes requests"),
    "/ping": ("", "As /health"),
    "/readyz": ("", "As /health: fails while draining"),
    "/livez": ("", "200 unless only a restart helps"),
    "/info": ("application/json", "The model, its limits and how it is decoded"),
    "/metrics": ("text/plain", "Prometheus metrics"),
    "/v1/diffusion/events": ("text/event-stream", "What the engine does, as it does it"),
    "/v1/models": ("application/json", "The one model"),
    "/v1/models/{model_id}": ("application/json", "The model by its id"),
    "/docs": ("text/html", "This page"),
    "/api-doc/openapi.json": ("application/json", "This document"),
}
"""Path -> the type of its body, if it has one, and what it answers."""

_REFUSALS = {
    "400": "the body is not JSON",
    "401": "the key is missing or wrong",
    "413": "the body is too large",
    "415": "the body does not claim to be JSON",
    "422": "a parameter is wrong or cannot be honoured; the error names it",
    "424": "the engine gave the request up",
    "429": "too many requests; try again after Retry-After",
    "500": "a bug, or the engine has stopped",
    "503": "the server is draining",
    "504": "the request took longer than the server allows",
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    bodies = {body for body, _, _ in POSTS.values() if body}
    _, definitions = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=lambda body: body.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for path, (body, family, text) in POSTS.items():
        schema = {"$ref": f"#/components/schemas/{body.__name__}"} if body else {"type": "object"}
        paths.setdefault(path, {})["post"] = {
            "tags": [family],
            "summary": text,
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {"200": _answer(), **{status: _refusal(text) for status, text in _REFUSALS.items()}},
        }
    for path, (media, text) in GETS.items():
        operation: dict[str, Any] = {
            "tags": [_OPERATIONS],
            "summary": text,
            "responses": {
                "200": {"description": text} | ({"content": {media: {}}} if media else {}),
                "404": _refusal("there is no such thing"),
                "503": _refusal("unhealthy"),
            },
        }
        if "{" in path:
            operation["parameters"] = [
                {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        paths.setdefault(path, {})["get"] = operation
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": ["object", "string"]}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Optimus",
            "version": __version__,
            "description": "Diffusion LLMs behind the APIs of Text Generation Inference and OpenAI.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"] | {"Error": error},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


async def openapi(request: Request) -> Response:
    """GET /api-doc/openapi.json."""
    return JSONResponse(document())


async def docs(request: Request) -> Response:
    """GET /docs: the same as a page that loads nothing from elsewhere."""
    return HTMLResponse(_page())


@cache
def _page() -> str:
    template = resources.files("optimus_server.api").joinpath("docs.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(document=document(), posts=POSTS, gets=GETS, type_of=_type)


def _answer() -> dict[str, Any]:
    media: dict[str, Any] = {"application/json": {}, "text/event-stream": {}}
    return {"description": "the answer, whole or as a stream", "content": media}


def _refusal(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _type(schema: dict[str, Any]) -> str:
    """A field's type in a few words.

    Example: ``{"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}`` -> ``[string] or null``
    """
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "const" in schema or "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items', {}))}]"
    return str(schema.get("type", "any"))
