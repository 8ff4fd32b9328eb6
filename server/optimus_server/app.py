"""The composition root: settings and a backend -> an ASGI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from optimus_server.api import chat, generate, ops
from optimus_server.api.exchange import Desk
from optimus_server.api.guards import ApiKey, RequestId, render
from optimus_server.backend import Backend
from optimus_server.errors import OptimusError, Refused
from optimus_server.service import Service
from optimus_server.settings import Settings


def create_app(settings: Settings, backend: Backend) -> Starlette:
    """The application. Its ``state.desk`` is what the routes work with; its lifespan runs the engine."""
    service = Service(
        backend.engine,
        block_size=backend.prompter.rules.block_size,
        shift=backend.shift,
        max_concurrent=settings.max_concurrent_requests,
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    middleware = [
        Middleware(RequestId),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=EXPOSED_HEADERS,
        ),
    ]
    if settings.api_key:
        middleware.append(Middleware(ApiKey, key=settings.api_key))
    app = Starlette(
        routes=ROUTES,
        middleware=middleware,
        exception_handlers={
            OptimusError: _on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
        },
        lifespan=lifespan,
    )
    app.state.desk = Desk(service, backend.prompter, settings, backend.facts)
    return app


ROUTES = [
    Route("/", ops.health, methods=["GET"]),
    Route("/", generate.compat, methods=["POST"]),
    Route("/v1", generate.compat, methods=["POST"]),
    Route("/generate", generate.generate, methods=["POST"]),
    Route("/generate_stream", generate.generate_stream, methods=["POST"]),
    Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
    Route("/v1/completions", chat.completions, methods=["POST"]),
    Route("/v1/models", ops.models),
    Route("/v1/models/{model_id:path}", ops.model),
    Route("/health", ops.health),
    Route("/ping", ops.health),
    Route("/info", ops.info),
]

EXPOSED_HEADERS = [
    "x-request-id", "x-compute-type", "x-compute-time", "x-compute-characters", "x-total-time",
    "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token", "x-prompt-tokens",
    "x-generated-tokens", "x-diffusion-steps", "x-tokens-per-step",
]  # fmt: skip


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OptimusError)
    return render(request, error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors, which are plain text by default."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http")
    message = f"{request.method} {request.url.path}: {error.detail}"
    headers = dict(error.headers or {})
    return render(request, Refused(message, status=error.status_code, code=code, headers=headers))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _on_bug(request: Request, error: Exception) -> Response:
    """The traceback goes to the log; the client learns nothing of the server's inside."""
    return render(request, OptimusError("internal error"))
