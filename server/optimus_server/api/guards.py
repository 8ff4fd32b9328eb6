"""What every request passes on its way in, as pure ASGI: its id, the key check, and a net for bugs."""

import hmac
import logging
import re
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from optimus_server import logs
from optimus_server.api.visit import visit_of
from optimus_server.errors import OptimusError, Refused

logger = logging.getLogger(__name__)

_ACCEPTED_ID = re.compile(r"[!-~]{1,128}")


OPEN = frozenset({"/chat_tokenize"})
"""POST routes without a key, as in TGI."""

ADMIN = "/admin/"
"""Has a token of its own, see ``api.access``."""

CLOSED = frozenset({"/v1/diffusion/events"})
"""GET routes with one: what is told there is not about the server only."""


class RequestId:
    """Gives each request an id, the client's ``x-request-id`` if it is printable, and answers with it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        logs.request_id.set(request_id)
        return await self.app(scope, receive, send_with_id)


class Bugs:
    """Answers with a 500 when the application raises: inside the other guards, so that the answer has their headers.

    The traceback goes to the log; the client learns nothing of the server's inside.

    Args:
        tell: called with the status.
    """

    def __init__(self, app: ASGIApp, tell: Callable[[int], None]) -> None:
        self.app = app
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted if scope["type"] == "http" else send)
        except Exception:
            if started or scope["type"] != "http":
                raise
            logger.exception("%s %s failed", scope["method"], scope["path"])
            error = OptimusError("internal error")
            self._tell(error.status)
            await render(Request(scope), error)(scope, receive, send)


class ApiKey:
    """Refuses to generate without the key; what asks about the server stays open, as in TGI."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope.get("path", ""), scope.get("method")
        if (method == "POST" and path not in OPEN and not path.startswith(ADMIN)) or (
            method == "GET" and path in CLOSED
        ):
            given = Headers(scope=scope).get("authorization", "")
            if not hmac.compare_digest(given.encode("latin-1"), self._expected):
                error = Refused(
                    "invalid or missing API key", status=401, code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )  # fmt: skip
                return await render(Request(scope), error)(scope, receive, send)
        return await self.app(scope, receive, send)


def render(request: Request, error: OptimusError) -> JSONResponse:
    """An error as status and body, in the shape of the family its route belongs to."""
    if visit := visit_of(request):
        visit.error = error
    path = request.url.path
    body: dict[str, Any] = error.openai() if path.startswith("/v1/") else error.tgi()
    return JSONResponse(body, status_code=error.status, headers=error.headers)
