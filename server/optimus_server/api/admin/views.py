"""Templates, assets, and what a page looks like when something is refused."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import cache, wraps
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from optimus_server import __version__
from optimus_server.api.admin.access import HEADERS
from optimus_server.api.admin.office import Office, office_of
from optimus_server.api.exchange import desk_of
from optimus_server.engine.telemetry import REASONS, Reason
from optimus_server.errors import Refused

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

WHY: dict[Reason, str] = {
    "hold": "nothing speaks for another size",
    "load_up": "a step would compute more positions than when the size was chosen, which favors smaller chunks",
    "load_down": "a step would compute fewer positions than when the size was chosen, which favors larger chunks",
    "learned": "measured yields or step times moved the optimum",
    "slo": "the best size would miss the target for the time per output token",
    "manual": "an operator or the requests themselves fixed it",
    "idle": "no request decodes in this step",
}
"""Reasons as an operator reads them; ``engine.telemetry`` defines them."""
assert tuple(WHY) == REASONS

Endpoint = Callable[[Request], Awaitable[Response]]


def page(request: Request, office: Office, template: str, *, status: int = 200, cookie: str, **values: Any) -> Response:
    """One page for who is logged in; ``cookie`` is kept."""
    access = office.access
    common = {
        "facts": desk_of(request).facts, "version": __version__, "proof": access.proof(cookie),
        "login": access.needs_login, "why": WHY,
    }  # fmt: skip
    return access.keep(request, render(template, status=status, **common | values), cookie)


def operator(request: Request) -> tuple[Office, str | None]:
    """The office, and the cookie of who asks; None if they must log in first.

    Raises:
        Refused: 404, there are no admin pages, or not for them.
    """
    office = office_of(request)
    cookie = office.access.cookie(request)
    return office, cookie if office.access.knows(cookie) else None


def to(path: str) -> Response:
    return RedirectResponse(path, status_code=303, headers=HEADERS)


def render(template: str, *, status: int = 200, **values: Any) -> Response:
    return HTMLResponse(_templates().get_template(template).render(values), status_code=status, headers=HEADERS)


def readable(endpoint: Endpoint) -> Endpoint:
    """Show refusals as a page to a browser that asks for one; scripts get JSON, as everywhere."""

    @wraps(endpoint)
    async def shown(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refused as error:
            if error.code != "admin" or "text/html" not in request.headers.get("accept", ""):
                raise
            return render("refused.html.j2", status=error.status, message=error.message)

    return shown


async def asset(request: Request) -> Response:
    """GET /admin/assets/{name}."""
    office_of(request).access.cookie(request)
    name = request.path_params["name"]
    found = _assets().get(name)
    if found is None:
        raise Refused(f"GET {request.url.path}: Not Found", status=404, code="not_found")
    kind = KINDS["." + name.rpartition(".")[2]]
    return Response(found, media_type=kind, headers=HEADERS)


@cache
def _assets() -> dict[str, bytes]:
    """By name; templates are none."""
    files = resources.files("optimus_ui").joinpath("admin").iterdir()
    return {file.name: file.read_bytes() for file in files if file.name.endswith(tuple(KINDS))}


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("optimus_ui", "admin"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["clock"] = lambda at: _utc(at).strftime("%H:%M:%S")
    environment.filters["day"] = lambda at: _utc(at).strftime("%m-%d")
    environment.filters["when"] = lambda at: _utc(at).strftime("%Y-%m-%d %H:%M:%S")
    environment.filters["iso"] = lambda at: _utc(at).isoformat(timespec="milliseconds")
    environment.filters["shown"] = lambda value: "\N{EN DASH}" if value is None else value
    environment.filters["size"] = size
    environment.filters["short"] = short
    return environment


def size(bounds: tuple[int, int]) -> str:
    """A bucket's name: one size, or the smallest and the largest with a dash between them."""
    low, high = bounds
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"


def short(value: float | None) -> str:
    """A number with as many digits as are read: 0.42, 12.3, 1 840."""
    if value is None:
        return "\N{EN DASH}"
    if value < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
