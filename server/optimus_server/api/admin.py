"""The admin pages: GET /admin and what its forms and its event stream ask for.

Every page reads without scripts; with them, one stream keeps it up to date. What an operator does goes to the engine
through the service's inbox and is written down.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from time import localtime, strftime, time
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from optimus_server import __version__
from optimus_server.api.access import COOKIE, HEADERS, Access, number
from optimus_server.api.board import TICK_S, Board
from optimus_server.api.bulletin import Bulletin
from optimus_server.api.exchange import Desk, desk_of
from optimus_server.api.sse import EventStream, named_event
from optimus_server.engine.telemetry import REASONS
from optimus_server.errors import Refused
from optimus_server.inbox import Knobs
from optimus_server.service import Service
from optimus_server.settings import Settings

logger = logging.getLogger(__name__)

ASSETS = {
    "admin.css": "text/css", "admin.js": "text/javascript", "timeline.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}  # fmt: skip
UNSENT = 16
"""Ticks that wait for a slow page; of more the oldest are lost."""
WRONG_TOKEN_S = 0.5


@dataclass(frozen=True, slots=True)
class Office:
    """What the admin routes work with; ``request.app.state.office``, None where there are no admin pages."""

    access: Access
    board: Board
    service: Service
    bulletin: Bulletin
    pages: list[deque[bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings, service: Service, bulletin: Bulletin) -> "Office | None":
        access = Access.of(settings)
        return cls(access, Board(service), service, bulletin) if access else None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Watch the engine while the block runs, in the running event loop."""
        ticking = asyncio.create_task(self._run())
        try:
            with self.service.traces.watch(self.board.stepped), self.bulletin.read(self.board.told):
                yield
        finally:
            ticking.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            tick = self.board.tick()
            if self.pages:
                # Written once, however many pages are open.
                write = named_event({"type": "tick"} | tick)
                for unsent in self.pages:
                    unsent.append(write)

    def record(self, request: Request, action: str, detail: str) -> None:
        """Write down what an operator has done."""
        client = request.client.host if request.client else "unknown"
        logger.warning("Admin: %s %s [by %s]", action, detail, client)
        self.board.audit.append({"at": round(time(), 3), "action": action, "detail": detail, "client": client})


def office_of(request: Request) -> Office:
    """Raises Refused with 404 where there are no admin pages."""
    office = request.app.state.office
    if office is None:
        raise Refused(f"{request.method} {request.url.path}: Not Found", status=404, code="not_found")
    assert isinstance(office, Office)
    return office


async def page(request: Request) -> Response:
    """GET /admin."""
    office, desk = office_of(request), desk_of(request)
    cookie = office.access.cookie(request)
    if not office.access.knows(cookie):
        return _to("/admin/login")
    board = office.board
    response = _render(
        "page.html.j2",
        now=board.now(), decisions=list(board.tail)[::-1][:30], audit=list(board.audit)[::-1], reasons=REASONS,
        cells=board.cells(), proof=office.access.proof(cookie), login=office.access.needs_login,
        limit=desk.settings.max_batch_size, largest=_largest_chunk(desk),
        facts=desk.facts, version=__version__, settings=desk.settings.shown(),
    )  # fmt: skip
    return office.access.keep(request, response, cookie)


async def events(request: Request) -> Response:
    """GET /admin/events: what has been, as ``hello``, then a ``tick`` four times a second."""
    office = office_of(request)
    if not office.access.knows(office.access.cookie(request)):
        raise Refused("log in first", status=403, code="admin")
    return EventStream(_writes(office), ExitStack(), HEADERS)


async def _writes(office: Office) -> AsyncGenerator[bytes, None]:
    board = office.board
    unsent: deque[bytes] = deque(maxlen=UNSENT)
    office.pages.append(unsent)
    try:
        yield named_event({"type": "hello", "timeline": list(board.timeline), "decisions": list(board.tail)})
        while not office.service.draining:
            await asyncio.sleep(TICK_S)
            write = b"".join(unsent)
            unsent.clear()
            if write:
                yield write
    finally:
        # By identity: two pages' empty queues are equal.
        office.pages[:] = [one for one in office.pages if one is not unsent]


async def asset(request: Request) -> Response:
    """GET /admin/assets/{name}."""
    office_of(request).access.cookie(request)
    name = request.path_params["name"]
    if name not in ASSETS:
        raise Refused(f"GET {request.url.path}: Not Found", status=404, code="not_found")
    return Response(_asset(name), media_type=ASSETS[name], headers=HEADERS)


async def login_page(request: Request) -> Response:
    """GET /admin/login."""
    access = office_of(request).access
    cookie = access.cookie(request)
    if access.knows(cookie):
        return access.keep(request, _to("/admin"), cookie)
    return access.keep(request, _render("login.html.j2", proof=access.proof(cookie), wrong=False), cookie)


async def login(request: Request) -> Response:
    """POST /admin/login, with ``token``."""
    office = office_of(request)
    cookie, fields = await office.access.form(request, login=True)
    operator = office.access.login(fields.get("token", "")) if office.access.needs_login else cookie
    if operator:
        office.record(request, "login", "")
        return office.access.keep(request, _to("/admin"), operator)
    logger.warning("Admin: wrong token [by %s]", request.client.host if request.client else "unknown")
    await asyncio.sleep(WRONG_TOKEN_S)
    return _render("login.html.j2", status=403, proof=office.access.proof(cookie), wrong=True)


async def logout(request: Request) -> Response:
    """POST /admin/logout."""
    office = office_of(request)
    await office.access.form(request)
    office.record(request, "logout", "")
    response = _to("/admin")
    response.delete_cookie(COOKIE, path="/admin")
    return response


async def knobs(request: Request) -> Response:
    """POST /admin/knobs, with ``chunk`` (a size or ``auto``) and ``tpot_ms``; both are set."""
    office = office_of(request)
    _, fields = await office.access.form(request)
    chunk = number(fields, "chunk", 1, _largest_chunk(desk_of(request)))
    if chunk is not None and chunk != int(chunk):
        raise Refused(f"`chunk` must be a whole number. Given: {chunk:g}", status=422, code="admin")
    tpot_ms = number(fields, "tpot_ms", 0.001, 60_000)
    detail = f"chunk {int(chunk) if chunk else 'auto'}, target {f'{tpot_ms:g} ms' if tpot_ms else 'none'}"
    return _turn(
        request, office, "set", detail,
        chunk=int(chunk) if chunk else None, tpot_s=tpot_ms / 1e3 if tpot_ms else None,
    )  # fmt: skip


async def switch(request: Request) -> Response:
    """POST /admin/pause, /admin/drain, with ``on`` (1 or 0)."""
    office = office_of(request)
    _, fields = await office.access.form(request)
    on = fields.get("on")
    if on not in ("0", "1"):
        raise Refused("`on` must be 0 or 1", status=422, code="admin")
    name = request.url.path.rsplit("/", 1)[1]
    knob = {"pause": "paused", "drain": "closed"}[name]
    return _turn(request, office, name, "on" if on == "1" else "off", **{knob: on == "1"})


async def cancel(request: Request) -> Response:
    """POST /admin/cancel, with ``request_id``."""
    office = office_of(request)
    _, fields = await office.access.form(request)
    request_id = fields.get("request_id", "")
    if request_id not in office.board.live:
        raise Refused("no such request is running", status=404, code="admin")
    office.service.cancel(request_id)
    office.record(request, "cancel", request_id)
    return _to("/admin")


def _turn(request: Request, office: Office, action: str, detail: str, **changes: Any) -> Response:
    knobs: Knobs = replace(office.service.knobs, **changes)
    office.service.turn(knobs)
    office.record(request, action, detail)
    return _to("/admin")


def _largest_chunk(desk: Desk) -> int:
    return 2 * desk.prompter.rules.block_size


def _to(path: str) -> Response:
    return RedirectResponse(path, status_code=303, headers=HEADERS)


def _render(template: str, *, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_templates().get_template(template).render(values), status_code=status, headers=HEADERS)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("optimus_ui", "admin"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["clock"] = lambda at: strftime("%H:%M:%S", localtime(at))
    environment.filters["shown"] = lambda value: "\N{EN DASH}" if value is None else value
    return environment


@cache
def _asset(name: str) -> bytes:
    return resources.files("optimus_ui").joinpath("admin", name).read_bytes()


ROUTES = [
    Route("/admin", page, methods=["GET"]),
    Route("/admin/events", events, methods=["GET"]),
    Route("/admin/assets/{name}", asset, methods=["GET"]),
    Route("/admin/login", login_page, methods=["GET"]),
    Route("/admin/login", login, methods=["POST"]),
    Route("/admin/logout", logout, methods=["POST"]),
    Route("/admin/knobs", knobs, methods=["POST"]),
    Route("/admin/pause", switch, methods=["POST"]),
    Route("/admin/drain", switch, methods=["POST"]),
    Route("/admin/cancel", cancel, methods=["POST"]),
]
