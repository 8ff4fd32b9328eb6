"""What every request passes on its way in, as pure ASGI: its id and the key check."""

import hmac
import re
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from optimus_server.errors import OptimusError, Refused

_ACCEPTED_ID = re.compile(r"[!-~]{1,128}")


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

        return await self.app(scope, receive, send_with_id)


class ApiKey:
    """Refuses to generate without the key; what asks about the server stays open, as in TGI."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
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
    path = request.url.path
    body: dict[str, Any] = error.openai() if path.startswith("/v1/") else error.tgi()
    return JSONResponse(body, status_code=error.status, headers=error.headers)
