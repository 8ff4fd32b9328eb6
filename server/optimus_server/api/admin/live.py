"""The live page: GET /admin, and the event stream that keeps it up to date."""

from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from optimus_server.api.admin.access import HEADERS
from optimus_server.api.admin.acts import largest_chunk
from optimus_server.api.admin.office import Office, Reader
from optimus_server.api.admin.views import operator, page, to
from optimus_server.api.exchange import Desk, desk_of
from optimus_server.api.sse import EventStream, named_event
from optimus_server.errors import OptimusError, Refused
from optimus_server.store.session import file_of

DECISIONS = 30


async def live(request: Request) -> Response:
    """GET /admin."""
    office, cookie = operator(request)
    if cookie is None:
        return to("/admin/login")
    desk, board = desk_of(request), office.board
    board.requests.look()
    return page(
        request, office, "live.html.j2", cookie=cookie,
        now=board.now(), slow=board.slow(), decisions=list(board.tail)[::-1][:DECISIONS],
        limit=desk.settings.max_batch_size, largest=largest_chunk(desk), settings=_launched(desk, office),
    )  # fmt: skip


async def events(request: Request) -> Response:
    """GET /admin/events: what has been, as ``hello``, then a ``tick`` four times a second."""
    office, cookie = operator(request)
    if cookie is None:
        raise Refused("log in first", status=403, code="admin")
    held = ExitStack()
    return EventStream(_writes(office, held.enter_context(office.reading())), held, HEADERS, OptimusError.tgi)


async def _writes(office: Office, reader: Reader) -> AsyncGenerator[bytes, None]:
    board = office.board
    past = {"timeline": list(board.timeline), "marks": list(board.marks), "decisions": list(board.tail)[-DECISIONS:]}
    yield named_event({"type": "hello"} | past | board.slow())
    while not office.service.draining:
        yield await reader.take()


def _launched(desk: Desk, office: Office) -> list[tuple[str, Any, bool]]:
    """Settings as launched, with whether they differ from the default; of secrets only whether there is one."""
    given = desk.settings.shown(exclude_defaults=True)
    found = []
    for name, value in desk.settings.shown().items():
        # A database's URL may hold a password; a file's name does not.
        place = file_of(office.recorder.url) if name == "log_db" and office.recorder else None
        found.append((name, place or value, name in given))
    return sorted(found, key=lambda entry: not entry[2])
