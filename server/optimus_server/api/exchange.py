"""What every generating route does alike: read the body, run the prompt.

Nothing here knows the shape of an answer; ``generate`` and ``chat`` do.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from starlette.requests import Request

from optimus_server.api.ledger import LEFT, Entry, Ledger
from optimus_server.api.steps import step_object
from optimus_server.api.visit import Visit, visit_of
from optimus_server.engine.request import Event
from optimus_server.errors import OptimusError, Refused, UnsupportedMediaType
from optimus_server.mailbox import Traced
from optimus_server.service import Service
from optimus_server.settings import Settings
from optimus_server.text.answer import Answer, Token
from optimus_server.text.ask import Ask
from optimus_server.text.prompt import Prompt, Prompter

SHORT = 2000
"""Characters of a prompt that is encoded in the event loop: to have a thread do it costs about as much again."""


Steps = AsyncGenerator[tuple["Exchange", list[Token]], None]
"""The tokens of each step of some exchanges, and whose they are."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says about itself and its model.

    Attributes:
        model_id: as given to ``optimus serve``; answers carry it whatever ``model`` a request names.
        compute_type: the value of ``x-compute-type``.
        model_sha: first 16 hex digits of the SHA-256 of its config.json.
        ladder: chunk sizes the controller chooses from, ascending.
    """

    model_id: str
    model_type: str
    dtype: str
    device: str
    mask_token_id: int | None
    compute_type: str
    kv_tokens: int
    model_sha: str | None = None
    ladder: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes work with; ``request.app.state.desk``."""

    service: Service
    prompter: Prompter
    settings: Settings
    facts: Facts
    ledger: Ledger


def desk_of(request: Request) -> Desk:
    desk = request.app.state.desk
    assert isinstance(desk, Desk)
    return desk


async def read_body(request: Request) -> bytes:
    """The raw JSON body of a POST, checked only for its declared type and its size.

    Raises:
        UnsupportedMediaType, Refused: 415 and 413.
    """
    declared = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if declared != "application/json":
        given = declared[:100] or "none"
        raise UnsupportedMediaType(f"expected `Content-Type: application/json`. Given: {given}")
    # Starlette's own limit would answer in plain text.
    limit = desk_of(request).settings.payload_limit
    too_large = Refused(f"the body must have <= {limit} bytes", status=413, headers={"connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise too_large
    return bytes(body)


class Exchange:
    """One request from its valid prompt to the end of its answer.

    Attributes:
        failure: why the engine gave up, if it did.
    """

    def __init__(
        self, desk: Desk, request_id: str, path: str, prompt: Prompt, began: float, visit: Visit | None = None
    ) -> None:
        self.desk = desk
        self.id = request_id
        self.prompt = prompt
        self.answer = Answer(prompt, desk.prompter.tokenizer)
        desk.service.enqueue(request_id, len(prompt.ids) + prompt.params.max_new_tokens)
        self._steps: list[dict[str, Any]] = []
        self._created = time.time()
        self._path = path
        self._began = began
        self._valid = time.perf_counter()
        self._entry = Entry(request_id, path, prompt, self.answer, began, self._valid)
        self._visit = visit
        self.failure: OptimusError | None = None
        if visit:
            visit.add(self)

    @classmethod
    async def open(cls, request: Request, request_id: str, ask: Ask, began: float) -> "Exchange":
        """Check and encode, a long text off the event loop: 2 MB take most of a second.

        Args:
            request_id: from ``Service.permit``.
            began: ``time.perf_counter`` at the request's arrival.

        Raises:
            InvalidRequest: see ``Prompter.prompt``.
            Overloaded: see ``Service.enqueue``.
        """
        desk = desk_of(request)
        if ask.characters > SHORT:
            prompt = await asyncio.to_thread(desk.prompter.prompt, ask)
        else:
            prompt = desk.prompter.prompt(ask)
        return cls(desk, request_id, request.url.path, prompt, began, visit_of(request))

    def choice(self, i: int, request_id: str) -> "Exchange":
        """The exchange of one of the prompt's choices, under an id of its own."""
        return Exchange(self.desk, request_id, self._path, self.prompt.choice(i), self._began, self._visit)

    async def tokens(self) -> Steps:
        """The tokens of each step. The last list comes when the answer is complete, with ``answer.usage``.

        Raises:
            OptimusError: the engine gave up.
        """
        service, answer = self.desk.service, self.answer
        outcome = LEFT
        self.desk.ledger.began(self._entry)
        last: list[Token] = []
        try:
            with service.submit(self.id, self.prompt) as mailbox:
                async for events in mailbox:
                    was_stopped = answer.stopped
                    last += answer.feed(self._untraced(events))
                    if answer.stopped and not was_stopped and answer.reason is None:
                        service.cancel(self.id)
                    if not answer.stopped and answer.reason is None:
                        yield self, last
                        last = []
            outcome = str(answer.reason)
            yield self, last
        except OptimusError as error:
            outcome = error.code
            self.failure = error
            raise
        finally:
            self.desk.ledger.ended(self._entry, outcome)

    async def complete(self) -> Answer:
        """Run to the end."""
        async with aclosing(self.tokens()) as steps:
            async for _ in steps:
                pass
        return self.answer

    def steps_told(self) -> list[dict[str, Any]]:
        """The ``diffusion`` objects of the steps since the last call, for a request that asks for them."""
        told, self._steps = self._steps, []
        return told

    def summary(self) -> dict[str, Any]:
        """What decoding has cost: the ``diffusion`` key of a final event.

        ``ttft_ms`` is from the valid prompt to the first token.
        """
        usage, generated = self.answer.usage, len(self.answer)
        assert usage is not None
        block, first = self.desk.prompter.rules.block_size, usage.prompt_tokens
        smallest, mean, largest = usage.chunk
        return {
            "v": 1,
            "type": "summary",
            "policy": self.prompt.params.policy,
            "steps": usage.steps,
            "tokens_per_step": round(generated / max(1, usage.steps), 3),
            "blocks": (first + generated - 1) // block - first // block + 1 if generated else 0,
            "chunk": {"min": smallest, "max": largest, "mean": round(mean, 2)},
            "computed_positions": usage.computed_positions,
            "wasted_tokens": usage.wasted_tokens + usage.generated_tokens - generated,
            "prefix_hit_tokens": usage.prefix_hit_tokens,
            "ttft_ms": round(self.answer.first_token_s * 1e3, 3),
        }

    def stream_headers(self) -> dict[str, str]:
        """TGI's headers that are known before the answer."""
        ignored = {"x-ignored-parameters": ", ".join(self.prompt.ignored)} if self.prompt.ignored else {}
        return ignored | {
            "x-compute-type": self.desk.facts.compute_type,
            "x-compute-characters": str(len(self.prompt.text)),
        }

    def headers(self) -> dict[str, str]:
        """TGI's headers of a complete answer, and ours; times in ms except ``x-compute-time`` in seconds."""
        usage, generated = self.answer.usage, len(self.answer)
        assert usage is not None
        total = time.perf_counter() - self._began
        milliseconds = {
            "x-total-time": total,
            "x-validation-time": self._valid - self._began,
            "x-queue-time": usage.queued_s,
            "x-inference-time": usage.decode_s,
            "x-time-per-token": usage.decode_s / max(1, generated),
        }
        return self.stream_headers() | {
            "x-compute-time": f"{total:.6f}",
            **{name: str(int(seconds * 1e3)) for name, seconds in milliseconds.items()},
            "x-prompt-tokens": str(len(self.prompt.ids)),
            "x-generated-tokens": str(generated),
            "x-diffusion-steps": str(usage.steps),
            "x-tokens-per-step": f"{generated / max(1, usage.steps):.3f}",
        }

    def _untraced(self, events: Sequence[Event | Traced]) -> Sequence[Event]:
        """The events without the traces among them, which go to ``steps_told``."""
        if not self.prompt.traced:
            return cast("Sequence[Event]", events)
        prompter = self.desk.prompter
        self._steps += [
            step_object(
                event.step, event.row, prompter.tokenizer.token_text,
                prompt=len(self.prompt.ids), block_size=prompter.rules.block_size, since=self._created,
            )
            for event in events if isinstance(event, Traced)
        ]  # fmt: skip
        return [event for event in events if not isinstance(event, Traced)]
