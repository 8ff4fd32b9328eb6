"""The side channel: GET /v1/diffusion/events, one stream of what the engine does for everybody.

Its clients are made for it, so its events have names. A slow reader loses the oldest of them; nobody waits for him.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from optimus_server.api.exchange import Desk, desk_of
from optimus_server.api.ledger import Tally
from optimus_server.api.sse import EventStream, named_event
from optimus_server.api.steps import decision_object, row_object
from optimus_server.engine.telemetry import Decision, StepTrace
from optimus_server.errors import InvalidRequest, OptimusError

RING = 256
"""Events that wait for a slow subscriber; of more the oldest are lost, and ``dropped`` counts them."""

LOAD_S = 0.25
TYPES = ("step", "request_start", "request_end", "decision", "load")


async def diffusion_events(request: Request) -> Response:
    """GET /v1/diffusion/events?request_id=&types=step,load: what the engine does, as it does it."""
    types = frozenset(filter(None, request.query_params.get("types", "").split(","))) or frozenset(TYPES)
    if unknown := sorted(types - set(TYPES)):
        text = f"`types` must be a comma separated list of {', '.join(TYPES)}. Given: {unknown[0][:40]}"
        raise InvalidRequest(text, param="types")
    channel = _Channel(desk_of(request), types, request.query_params.get("request_id"))
    return EventStream(channel.writes(), ExitStack(), {}, OptimusError.tgi)


class _Channel:
    """One subscriber: a bounded ring of events that are not sent yet."""

    def __init__(self, desk: Desk, types: frozenset[str], request_id: str | None) -> None:
        self._desk, self._types, self._request_id = desk, types, request_id
        self._ring: deque[dict[str, Any]] = deque(maxlen=RING)
        self._dropped = 0
        self._filled = asyncio.Event()
        self._last: Decision | None = None
        self._tally, self._looked = Tally(), time.monotonic()

    async def writes(self) -> AsyncGenerator[bytes, None]:
        """Until the reader leaves or the server drains."""
        desk = self._desk
        yield named_event({"type": "hello", "v": 1, "model": desk.facts.model_id, "types": sorted(self._types)})
        self._tally = replace(desk.ledger.tally)
        with ExitStack() as held:
            if self._types & {"step", "decision"}:
                held.enter_context(desk.service.traces.watch(self._step))
            held.enter_context(desk.ledger.bulletin.read(self._told))
            due = time.monotonic()
            while not desk.service.draining:
                if (now := time.monotonic()) >= due:
                    due = now + LOAD_S
                    if "load" in self._types:
                        self._put(self._load())
                if write := self._take():
                    yield write
                with contextlib.suppress(TimeoutError):
                    # Clocks differ: a timer may fire a moment early.
                    await asyncio.wait_for(self._filled.wait(), due - time.monotonic() + 0.002)

    def _put(self, event: dict[str, Any]) -> None:
        self._dropped += len(self._ring) == RING
        self._ring.append(event)
        self._filled.set()

    def _take(self) -> bytes:
        """All that waits, as one write."""
        self._filled.clear()
        events, dropped = list(self._ring), self._dropped
        self._ring.clear()
        self._dropped = 0
        if dropped and events:
            events[0] = events[0] | {"dropped": dropped}
        return b"".join(map(named_event, events))

    def _told(self, event: dict[str, Any]) -> None:
        """Of the beginning or the end of a request."""
        if event["type"] in self._types and self._request_id in (None, event["request_id"]):
            self._put(event)

    def _step(self, trace: StepTrace) -> None:
        decision = trace.decision
        before, self._last = self._last, decision
        changed = before is None or (before.chunk, before.reason) != (decision.chunk, decision.reason)
        if "decision" in self._types and changed:
            told = {"type": "decision", "v": 1, "number": trace.number, "at": round(trace.at, 6)}
            self._put(told | {"chunk_before": before.chunk if before else None} | decision_object(decision))
        if "step" not in self._types:
            return
        text, prompts = self._desk.prompter.tokenizer.token_text, self._desk.ledger.bulletin.prompts
        block = self._desk.prompter.rules.block_size
        rows = [row for row in trace.rows if self._request_id in (None, row.request_id)]
        if rows:
            told = {"type": "step", "v": 1, "number": trace.number, "at": round(trace.at, 6)}
            told["step_ms"] = round(trace.observed_s * 1e3, 3)
            parts = [
                {"request_id": row.request_id}
                | row_object(row, text, prompt=prompts.get(row.request_id, 0), block_size=block)
                for row in rows
            ]
            self._put(told | decision_object(decision) | {"rows": parts})

    def _load(self) -> dict[str, Any]:
        """How busy the server is, and what it did since the last such event; nulls where no step was."""
        service, last = self._desk.service, self._tally
        load, now = service.load(), time.monotonic()
        self._tally = tally = replace(self._desk.ledger.tally)
        steps, tokens = tally.steps - last.steps, tally.tokens - last.tokens
        since, self._looked = now - self._looked, now
        used = 1 - load.free_pages / load.pages if load.pages else 0.0
        return {
            "type": "load", "v": 1, "running": load.running, "waiting": load.waiting, "kv_used": round(used, 4),
            "queued_tokens": service.queued_tokens, "permits": service.permits_taken,
            "steps": steps, "tokens_per_s": round(tokens / max(since, LOAD_S / 2), 1),
            "step_ms": round((tally.seconds - last.seconds) / steps * 1e3, 3) if steps else None,
            "chunk": tally.decision.chunk if steps and tally.decision else None,
        }  # fmt: skip
