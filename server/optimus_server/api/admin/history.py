"""What the request log remembers: GET /admin/requests with its filters, as a page and as CSV, and GET /admin/audit."""

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from time import time_ns
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from optimus_server.api.admin.access import HEADERS, number
from optimus_server.api.admin.curves import HIGH, WIDE, Curve, curves
from optimus_server.api.admin.office import Office, shown_action
from optimus_server.api.admin.views import operator, page, to
from optimus_server.errors import Refused
from optimus_server.store.queries import Filter, Log
from optimus_server.store.tables import Request as Row

PAGE = 50
ROWS_AT_ONCE = 500
BREATH_S = 0.01
"""Between two parts of a file, so that writing a long one leaves the interpreter to the engine most of the time."""
PERIODS = {"1h": 3600, "24h": 86_400, "7d": 7 * 86_400, "all": None}
"""Name -> seconds."""
ENDS = ("eos_token", "length", "stop_sequence", "cancelled")
FIELDS = ("period", "status", "finish", "endpoint", "client", "min_ms")
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


async def requests(request: Request) -> Response:
    """GET /admin/requests?period=&status=&finish=&endpoint=&client=&min_ms=&before=, or ?id= for one request."""
    office, cookie = operator(request)
    if cookie is None:
        return to("/admin/login")
    asked = request.query_params
    name = asked.get("id", "").strip()
    if name:
        return to(f"/admin/requests/{quote(name, safe='')}")
    log = log_of(office)
    which = wanted(asked)
    before = asked.get("before")
    if before is not None and (len(before) != 22 or not _is_hex(before)):
        raise Refused("`before` must be the id of a request in the log", status=422, code="admin")
    rows = await office.ask(log.requests, which, limit=PAGE + 1, before=before)
    load_us, load = await _load(office, log, which) if before is None else (0, [])
    given = {field: asked[field] for field in FIELDS if asked.get(field)}
    older = urlencode(given | {"before": rows[PAGE - 1]["id"]}) if len(rows) > PAGE else None
    return page(
        request, office, "requests.html.j2", cookie=cookie,
        rows=rows[:PAGE], load=load, load_us=load_us, wide=WIDE, high=HIGH, given=given, older=older, first=not before,
        query=urlencode(given), periods=PERIODS, ends=_same(ENDS), endpoints=_same(sorted(request.app.state.logged)),
        slowest=max((row["total_ms"] for row in rows[:PAGE]), default=1.0),
    )  # fmt: skip


async def export(request: Request) -> Response:
    """GET /admin/requests.csv, with the same filters: all requests that pass them, newest first."""
    office, cookie = operator(request)
    if cookie is None:
        raise Refused("log in first", status=403, code="admin")
    log, which = log_of(office), wanted(request.query_params)
    headers = HEADERS | {"content-disposition": 'attachment; filename="requests.csv"'}
    return StreamingResponse(_csv(office, log, which), media_type="text/csv", headers=headers)


async def audit(request: Request) -> Response:
    """GET /admin/audit?before=: what operators did, newest first."""
    office, cookie = operator(request)
    if cookie is None:
        return to("/admin/login")
    log = log_of(office)
    before = number(request.query_params, "before", 1, 2**62)
    rows = await office.ask(log.actions, limit=PAGE + 1, before=int(before) if before else None)
    older = rows[PAGE - 1]["id"] if len(rows) > PAGE else None
    return page(
        request, office, "audit.html.j2", cookie=cookie,
        rows=list(map(shown_action, rows[:PAGE])), older=older, first=not before,
    )  # fmt: skip


def log_of(office: Office) -> Log:
    """Raises Refused with 404 if the server keeps no log."""
    if office.log is None:
        raise Refused("this server keeps no request log: it was started with --log-db off", status=404, code="admin")
    return office.log


def wanted(asked: Mapping[str, str]) -> Filter:
    """The filter that a page's parameters describe; a period that is not given is the last day.

    Raises:
        Refused: 422, a parameter that is none of its values.
    """
    period = asked.get("period") or "24h"
    if period not in PERIODS:
        raise Refused(f"`period` must be one of {', '.join(PERIODS)}", status=422, code="admin")
    seconds = PERIODS[period]
    status = asked.get("status") or ""
    which = Filter(
        since_us=None if seconds is None else time_ns() // 1000 - seconds * 10**6,
        finish_reason=asked.get("finish") or None,
        endpoint=asked.get("endpoint") or None,
        client=asked.get("client") or None,
        min_ms=number(asked, "min_ms", 0, 1e9),
    )
    if status == "failed":
        return replace(which, failed=True)
    code = number(asked, "status", 100, 599)
    return replace(which, status=None if code is None else int(code))


async def _load(office: Office, log: Log, which: Filter) -> tuple[int, list[Curve]]:
    """Of a period that has a beginning, from its first sample on: when that was, and the curves."""
    if which.since_us is None:
        return 0, []
    since_us, until_us = await office.ask(log.first_load, which.since_us), time_ns() // 1000
    if since_us is None or since_us >= until_us:
        return 0, []
    rows = await office.ask(log.load, since_us, until_us, points=WIDE)
    return since_us, curves(rows, since_us, until_us)


async def _csv(office: Office, log: Log, which: Filter) -> AsyncGenerator[bytes, None]:
    """The file, some hundred rows at a time, each a query of its own: a slow reader holds no transaction open."""
    yield _written([[column.name for column in Row.__table__.columns]])
    before: str | None = None
    while rows := await office.ask(log.requests, which, limit=ROWS_AT_ONCE, before=before):
        yield _written([[_cell(value) for value in row.values()] for row in rows])
        before = rows[-1]["id"]
        await asyncio.sleep(BREATH_S)


def _written(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Bytes as hex; text that a spreadsheet would take for a formula, which clients could send, behind a quote."""
    if isinstance(value, bytes):
        return value.hex()
    return "'" + value if isinstance(value, str) and value.startswith(FORMULAS) else value


def _same(values: Iterable[str]) -> list[tuple[str, None]]:
    """Choices that are shown as they are."""
    return [(value, None) for value in values]


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdef" for letter in text)
