"""One request of the log: where its time went, and its denoising step by step."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from optimus_server.api.admin.access import HEADERS
from optimus_server.api.admin.history import log_of
from optimus_server.api.admin.office import Office
from optimus_server.api.admin.views import operator, page, to
from optimus_server.errors import Refused
from optimus_server.store.answers import Detail
from optimus_server.store.replay import texts

TABLE = 500
"""Steps in the page's table; all are in its replay."""
FACTS = (
    "status", "error_type", "error", "finish_reason", "cancelled", "endpoint", "stream", "client", "user_agent",
    "policy", "seed", "prompt_tokens", "max_new_tokens", "generated_tokens", "wasted_tokens", "prefix_hit_tokens",
    "computed_positions", "steps", "tokens_per_step", "blocks", "chunk_min", "chunk_mean", "chunk_max", "batch_mean",
    "batch_max", "queue_depth_in", "choice", "id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phase:
    """A bar of the waterfall: milliseconds, and its place in per mille of the request's whole time."""

    name: str
    meaning: str
    ms: float
    at: float
    width: float


async def detail(request: Request) -> Response:
    """GET /admin/requests/{name}, by x-request-id or by the log's own id."""
    office, cookie = operator(request)
    if cookie is None:
        return to("/admin/login")
    found = await _found(request, office)
    row = found.request
    marks = [(name, text, 1000 * row[column] / row["total_ms"], row[column]) for name, text, column in (
        ("TTFC", "arrival to the first committed position", "ttfc_ms"),
        ("TTFT", "arrival to the first token sent", "ttft_ms"),
    ) if row[column] is not None and row["total_ms"]]  # fmt: skip
    return page(
        request, office, "request.html.j2", cookie=cookie, row=row, instance=found.instance, phases=phases(row),
        marks=marks, facts_shown=[(name, row[name]) for name in FACTS if row[name] not in (None, "")],
        parameters=json.loads(row["params_json"] or "{}"), steps=found.steps[:TABLE], all_steps=len(found.steps),
        prompt=found.prompt, output=found.output, truncated=found.truncated,
    )  # fmt: skip


async def replay(request: Request) -> Response:
    """GET /admin/replay/{name}: the steps, for the page's script."""
    office, cookie = operator(request)
    if cookie is None:
        raise Refused("log in first", status=403, code="admin")
    found = await _found(request, office)
    return JSONResponse(await office.ask(_film, found), headers=HEADERS)


def phases(row: dict[str, Any]) -> list[Phase]:
    """Where a request's time went, in order; what was never reached is left out.

    ``row`` is one of ``tables.Request``. What remains is handing over: events on their way, and the writing of bytes.
    """
    prefill, decode = row["prefill_ms"], row["decode_ms"]
    known = [
        ("validation", "arrival to valid prompt", row["validation_ms"]),
        ("queue", "valid prompt to its first row", row["queue_ms"]),
        ("prefill", "first row to the first step that offered masks", prefill),
        ("decode", "denoising, to the end of decoding", None if decode is None else decode - (prefill or 0.0)),
    ]
    total, found, at = row["total_ms"], [], 0.0
    for name, meaning, ms in known:
        if ms is not None:
            found.append((name, meaning, max(0.0, ms), at))
            at += max(0.0, ms)
    if found and total > at:
        found.append(("delivery", "the rest: to the last byte", total - at, at))
    scale = 1000 / max(total, at, 1e-9)
    return [Phase(name, meaning, ms, at * scale, ms * scale) for name, meaning, ms, at in found]


def _film(found: Detail) -> dict[str, Any]:
    first = next((step.frontier for step in found.steps), 0)
    last = max((position + 1 for step in found.steps for position in step.positions), default=first)
    return {
        "first": first, "last": last, "block": found.instance["block_size"] or 0,
        "words": texts(found, last - first) if found.output else None,
        "steps": [step._asdict() for step in found.steps],
    }  # fmt: skip


async def _found(request: Request, office: Office) -> Detail:
    """Raises Refused with 404 if the log has no such request."""
    name = request.path_params["name"]
    found = await office.ask(log_of(office).request, name)
    if found is None:
        text = "the log has no such request: it is written when the request ends, unless its client asked for no log"
        raise Refused(text, status=404, code="admin")
    return found
