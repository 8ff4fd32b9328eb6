"""What an operator does to a running server: each act goes through the service's inbox and is written down."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from optimus_server.api.admin.access import number
from optimus_server.api.admin.office import Office, office_of
from optimus_server.api.admin.views import to
from optimus_server.api.exchange import Desk, desk_of
from optimus_server.errors import Refused


async def knobs(request: Request) -> Response:
    """POST /admin/knobs, with ``chunk`` (a size or ``auto``) and ``tpot_ms``; both are set."""
    office = office_of(request)
    _, fields = await office.access.form(request)
    chunk = number(fields, "chunk", 1, largest_chunk(desk_of(request)))
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
    if request_id not in office.board.requests:
        raise Refused("no such request is running", status=404, code="admin")
    office.service.cancel(request_id)
    office.record(request, "cancel", request_id)
    return to("/admin")


def largest_chunk(desk: Desk) -> int:
    return 2 * desk.prompter.rules.block_size


def _turn(request: Request, office: Office, action: str, detail: str, **changes: Any) -> Response:
    office.turn(request, action, detail, **changes)
    return to("/admin")
