"""What one HTTP request leaves in the log: a row for each prompt it had decoded, or one that says why none was."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from optimus_server.engine.request import Params
from optimus_server.errors import OptimusError, TemplateFailed
from optimus_server.journal import Journal
from optimus_server.store.records import RequestRecord

if TYPE_CHECKING:
    from optimus_server.api.exchange import Exchange

CLIENT_LEFT = 499
NO_LOG = "x-no-log"

_COLUMNS = frozenset({"max_new_tokens", "stop_ids", "policy", "seed"})
"""Parameters that have a column of their own, or are the model's."""


_SIZES = re.compile(r"[-+.e\d]+( `\w+` tokens and \d+ `\w+`)?")


class Visit:
    """One HTTP request, from its arrival to its last byte.

    Attributes:
        status: of the answer; 499 until there is one.
        stream: whether the answer is one.
        error: why there was no answer.
    """

    def __init__(self, journal: Journal, scope: Scope) -> None:
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        self.status = CLIENT_LEFT
        self.stream: bool | None = None
        self.error: OptimusError | None = None
        self._journal = journal
        self._created_us = time.time_ns() // 1000
        self._began = time.perf_counter()
        self._request_id = str(scope["state"]["request_id"])
        self._endpoint = str(scope["path"])
        self._user_agent = headers.get("user-agent")
        self._client = journal.recorder.privacy.client(key) if scheme.lower() == "bearer" and key else None
        self._exchanges: list[tuple[Exchange, float, int]] = []

    def add(self, exchange: Exchange) -> None:
        """A prompt is valid and about to be decoded."""
        self._journal.expect(exchange.id, self._created_us / 1e6)
        waiting = exchange.desk.service.load().waiting
        self._exchanges.append((exchange, self._elapsed_ms(), waiting))

    def end(self) -> None:
        """Record it."""
        for choice, (exchange, valid_ms, waiting) in enumerate(self._exchanges):
            self._journal.end(exchange.id, self._answered(exchange, valid_ms, choice, waiting))
        if not self._exchanges and self.status >= 400:
            self._journal.recorder.submit(self._refused())

    def _refused(self) -> RequestRecord:
        left = self.status == CLIENT_LEFT
        return RequestRecord(
            request_id=self._request_id,
            created_us=self._created_us,
            endpoint=self._endpoint,
            stream=self.stream,
            client=self._client,
            user_agent=self._user_agent,
            status=self.status,
            error_type=self.error.code if self.error else None,
            error=_told(self.error) if self.error else None,
            finish_reason="cancelled" if left else None,
            cancelled=left,
            total_ms=self._elapsed_ms(),
        )

    def _answered(self, exchange: Exchange, valid_ms: float, choice: int, waiting: int) -> RequestRecord:
        answer, prompt, usage = exchange.answer, exchange.prompt, exchange.answer.usage
        error = exchange.failure or self.error
        cancelled = answer.reason is None and error is None
        generated = len(answer)
        block = exchange.desk.prompter.rules.block_size
        costs: dict[str, Any] = {}
        if usage is not None:
            costs = {
                "wasted_tokens": usage.wasted_tokens + usage.generated_tokens - generated,
                "prefix_hit_tokens": usage.prefix_hit_tokens,
                "computed_positions": usage.computed_positions,
                "steps": usage.steps,
                "queue_ms": usage.queued_s * 1e3,
                "decode_ms": usage.decode_s * 1e3,
            }
        return dataclasses.replace(
            self._refused(),
            choice=choice,
            queue_depth_in=waiting,
            error_type=error.code if error else None,
            error=_told(error) if error else None,
            finish_reason="cancelled" if cancelled else answer.reason,
            cancelled=cancelled,
            params=_asked(prompt.params),
            seed=prompt.seed,
            policy=prompt.params.policy,
            prompt=prompt.text,
            prompt_tokens=len(prompt.ids),
            max_new_tokens=prompt.params.max_new_tokens,
            generated_tokens=generated,
            blocks=(len(prompt.ids) + generated - 1) // block - len(prompt.ids) // block + 1 if generated else 0,
            validation_ms=valid_ms,
            ttft_ms=valid_ms + answer.first_token_s * 1e3 if generated else None,
            output=answer.text,
            pieces=answer.pieces,
            **costs,
        )

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._began) * 1e3


class Logged:
    """Watches requests to the generating routes, unless they ask not to be: a header ``x-no-log: 1`` leaves no row."""

    def __init__(self, app: ASGIApp, paths: frozenset[str]) -> None:
        self.app = app
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watched = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths
        journal = scope["app"].state.journal if watched else None
        if journal is None or Headers(scope=scope).get(NO_LOG, "0") != "0":
            return await self.app(scope, receive, send)
        visit = scope["state"]["visit"] = Visit(journal, scope)

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                visit.stream = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            await send(message)

        try:
            return await self.app(scope, receive, watch)
        except Exception:
            # Starlette answers it outside of all middleware.
            visit.status = 500 if visit.status == CLIENT_LEFT else visit.status
            raise
        finally:
            visit.end()


def visit_of(request: Request) -> Visit | None:
    """The visit of a request that is watched."""
    found: Visit | None = request.scope["state"].get("visit")
    return found


def _told(error: OptimusError) -> str | None:
    """An error's message, without what it quotes of the request.

    Example: ``... must be one of a, b. Given: my words`` -> ``... must be one of a, b.``, but ``Given: 7`` stays.
    """
    if isinstance(error, TemplateFailed):
        return None
    message = error.message.split(" `")[0] if error.message.startswith("unknown parameter") else error.message
    text, _, value = message.partition(" Given: ")
    return message if _SIZES.fullmatch(value) else text


def _asked(params: Params) -> dict[str, object]:
    """Parameters that differ from their defaults."""
    return {
        field.name: getattr(params, field.name)
        for field in dataclasses.fields(params)
        if field.name not in _COLUMNS and getattr(params, field.name) != field.default
    }
