"""The composition root: settings and a backend -> an ASGI application."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from optimus_server import __version__
from optimus_server.api import chat, clouds, crowd, generate, openapi, ops, responses, telemetry, tokenize
from optimus_server.api.admin.office import Office
from optimus_server.api.admin.routes import ROUTES as ADMIN_ROUTES
from optimus_server.api.bulletin import Bulletin
from optimus_server.api.exchange import Desk, desk_of
from optimus_server.api.guards import ApiKey, Bugs, RequestId, render
from optimus_server.api.ledger import Ledger
from optimus_server.api.metrics import Metrics
from optimus_server.api.visit import NO_LOG, Logged
from optimus_server.backend import Backend
from optimus_server.errors import GenerationFailed, OptimusError, Refused
from optimus_server.journal import Journal
from optimus_server.service import Service
from optimus_server.settings import Settings
from optimus_server.store.recorder import Recorder
from optimus_server.store.records import InstanceRecord
from optimus_server.store.start import checkout


def create_app(settings: Settings, backend: Backend, recorder: Recorder | None = None) -> Starlette:
    """The application. Its ``state.desk`` is what the routes work with; its lifespan runs the engine.

    Args:
        recorder: of the request log; closed by whoever opened it, once the last stream has ended.
    """
    service = Service(
        backend.host,
        block_size=backend.prompter.rules.block_size,
        shift=backend.shift,
        max_concurrent=settings.max_concurrent_requests,
        max_queue_tokens=settings.max_queue_tokens,
        timeout_s=settings.request_timeout,
        tpot_s=settings.tpot_slo_ms and settings.tpot_slo_ms / 1e3,
    )

    journal = Journal(recorder, backend.host.feed, service.load) if recorder else None
    ledger = Ledger(_metrics(service, backend), Bulletin())
    if recorder:
        counts = recorder.counts
        ledger.metrics.watch("optimus_log_dropped", "records the request log dropped", lambda: counts().dropped)
        ledger.metrics.watch("optimus_log_waiting", "records not written yet", lambda: counts().waiting)

    office = Office.of(
        settings, service, ledger.bulletin, block_size=backend.prompter.rules.block_size, recorder=recorder
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        reading = asyncio.create_task(journal.run()) if journal else None
        try:
            async with AsyncExitStack() as watching:
                watching.enter_context(service.traces.watch(ledger.stepped))
                if office:
                    await watching.enter_async_context(office.open())
                yield
        finally:
            await service.stop()
            if reading:
                reading.cancel()

    middleware = [
        Middleware(RequestId),
        Middleware(Logged, paths=LOGGED),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id", NO_LOG],
            expose_headers=EXPOSED_HEADERS,
        ),
    ]
    if settings.api_key:
        middleware.append(Middleware(ApiKey, key=settings.api_key))
    middleware.append(Middleware(Bugs, tell=ledger.bulletin.refused))
    app = Starlette(
        routes=[*ROUTES, *ADMIN_ROUTES, *(LOAD if settings.playground_load else ())],
        middleware=middleware,
        exception_handlers={
            OptimusError: _on_error,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
        },
        lifespan=lifespan,
    )
    if not settings.no_playground:
        # Gradio takes seconds to import. It comes last: what it mounts wraps the lifespan.
        from optimus_ui.playground.page import mount

        mount(
            app,
            needs_key=settings.api_key is not None,
            chunks=backend.facts.ladder,
            longest=backend.prompter.rules.max_total_tokens,
            load=crowd.MOST if settings.playground_load else 0,
        )
    app.state.journal = journal
    app.state.office = office
    app.state.logged = LOGGED
    app.state.desk = desk = Desk(service, backend.prompter, settings, backend.facts, ledger)
    app.state.crowd = crowd.Crowd(desk)
    return app


def _metrics(service: Service, backend: Backend) -> Metrics:
    rules, facts = backend.prompter.rules, backend.facts
    metrics = Metrics(
        max_input_tokens=rules.max_input_tokens,
        max_total_tokens=rules.max_total_tokens,
        batch_tokens=facts.kv_tokens,
    )

    def used() -> float:
        load = service.load()
        return facts.kv_tokens * (1 - load.free_pages / load.pages) if load.pages else 0.0

    for name in ("tgi_queue_size", "optimus_requests_waiting"):
        metrics.watch(name, "requests in the queue", lambda: service.load().waiting)
    for name in ("tgi_batch_current_size", "optimus_requests_running"):
        metrics.watch(name, "requests that are decoded", lambda: service.load().running)
    metrics.watch("tgi_batch_current_max_tokens", "tokens of the KV pool in use", used)
    metrics.watch("optimus_queued_tokens", "tokens that wait for their first step", lambda: service.queued_tokens)
    metrics.watch("optimus_permits_taken", "requests in flight", lambda: service.permits_taken)
    return metrics


ROUTES = [
    Route("/", ops.health, methods=["GET"]),
    Route("/", generate.compat, methods=["POST"]),
    Route("/v1", generate.compat, methods=["POST"]),
    Route("/generate", generate.generate, methods=["POST"]),
    Route("/generate_stream", generate.generate_stream, methods=["POST"]),
    Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
    Route("/v1/completions", chat.completions, methods=["POST"]),
    Route("/v1/responses", responses.responses, methods=["POST"]),
    Route("/v1/diffusion/events", telemetry.diffusion_events, methods=["GET"]),
    Route("/tokenize", tokenize.tokenize, methods=["POST"]),
    Route("/chat_tokenize", tokenize.chat_tokenize, methods=["POST"]),
    Route("/invocations", clouds.invocations, methods=["POST"]),
    Route("/vertex", clouds.vertex, methods=["POST"]),
    Route("/v1/models", ops.models),
    Route("/v1/models/{model_id:path}", ops.model),
    Route("/health", ops.health),
    Route("/ping", ops.health),
    Route("/livez", ops.live),
    Route("/readyz", ops.health),
    Route("/info", ops.info),
    Route("/metrics", ops.metrics),
    Route("/docs", openapi.docs),
    Route("/api-doc/openapi.json", openapi.openapi),
]

LOAD = [Route(crowd.PATH, crowd.load, methods=["POST"])]

LOGGED = frozenset(route.path for route in ROUTES if "POST" in (route.methods or ()))

EXPOSED_HEADERS = [
    "x-request-id", "x-compute-type", "x-compute-time", "x-compute-characters", "x-total-time",
    "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token", "x-prompt-tokens",
    "x-generated-tokens", "x-diffusion-steps", "x-tokens-per-step", "x-ignored-parameters",
]  # fmt: skip


def instance(settings: Settings, backend: Backend) -> InstanceRecord:
    """What the request log says about this run of the server."""
    now = time.time_ns() // 1000
    return InstanceRecord(
        id=f"{now:014x}{secrets.token_hex(4)}",
        started_us=now,
        version=__version__,
        git_sha=checkout(),
        model_id=backend.facts.model_id,
        model_sha=backend.facts.model_sha,
        block_size=backend.prompter.rules.block_size,
        logit_shift=backend.shift,
        device=backend.facts.device,
        settings=settings.shown(exclude_defaults=True),
    )


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OptimusError)
    if request.method == "POST" and request.url.path in LOGGED and not isinstance(error, GenerationFailed):
        desk_of(request).ledger.refused(error)
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
