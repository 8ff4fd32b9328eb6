"""Requests of the server's own, so that a visitor of the playground sees what load does: POST /playground/load.

They last as long as the stream that asked for them, and no longer than LASTS_S. They are guests: one place in four, in
the batch and among the permits, stays free whoever runs, so they leave one by one as clients come, and all at once when
a client waits for memory. Metrics count them, since they cost what others cost; the request log does not list them.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from starlette.requests import Request
from starlette.responses import Response

from optimus_server.api.body import Body, parse
from optimus_server.api.exchange import Desk, Exchange, read_body
from optimus_server.api.sse import EventStream, event
from optimus_server.errors import InvalidRequest, OptimusError
from optimus_server.text.ask import Ask

PATH = "/playground/load"
MOST = 64
LASTS_S = 120.0
LOOK_S, TELL_S = 0.05, 0.5
TOKENS = 192
"""Of an answer: short, so that a place is soon free again."""

FREE = 4
"""One place in so many is kept for others."""

ANIMALS = ("fox", "owl", "bear", "wolf", "cat", "dog", "rabbit", "horse")
PROMPTS = (*(f"Write a short story about a {animal}." for animal in ANIMALS), "How does diffusion decoding work?")


class LoadRequest(Body):
    """``requests``: how many to keep going, 0 to MOST."""

    requests: int


async def load(request: Request) -> Response:
    """POST /playground/load ``{"requests": 16}``: a stream that tells how many run, twice a second, while they do."""
    wanted = parse(LoadRequest, await read_body(request)).requests
    if not 0 <= wanted <= MOST:
        raise InvalidRequest(f"`requests` must be >= 0 and <= {MOST}. Given: {wanted}", param="requests")
    crowd = request.app.state.crowd
    assert isinstance(crowd, Crowd)
    return EventStream(crowd.told(wanted), ExitStack(), {}, OptimusError.tgi)


class Crowd:
    """All background requests of a server; who asks last decides how many there are. Touched by the event loop only."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._running: dict[asyncio.Task[None], Exchange | None] = {}
        self._turn = 0
        self._count = 0

    @property
    def running(self) -> int:
        return len(self._running)

    async def told(self, wanted: int) -> AsyncGenerator[bytes, None]:
        """Keep so many going; ends when the time is over, somebody else asks, or the server drains."""
        async with aclosing(self._keep(wanted)) as looks:
            due = 0.0
            async for left_s in looks:
                if (now := time.monotonic()) >= due:
                    due = now + TELL_S
                    yield event({"v": 1, "wanted": wanted, "running": self.running, "seconds_left": round(left_s)})

    async def _keep(self, wanted: int) -> AsyncGenerator[float, None]:
        """Yields the seconds left, at every look around."""
        self._turn = turn = self._turn + 1
        ends = time.monotonic() + LASTS_S
        try:
            while wanted and (left := ends - time.monotonic()) > 0:
                if self._turn != turn or self._desk.service.draining:
                    return
                allowed = min(wanted, self._allowed())
                for task in list(self._running)[allowed:]:
                    task.cancel()
                for _ in range(allowed - self.running):
                    self._begin()
                yield left
                await asyncio.sleep(LOOK_S)
        finally:
            if self._turn == turn:
                for task in self._running:
                    task.cancel()

    def _begin(self) -> None:
        self._count += 1
        task = asyncio.create_task(self._run(self._count))
        self._running[task] = None
        task.add_done_callback(self._running.pop)

    async def _run(self, number: int) -> None:
        """One request from its permit to its end, as any client's but for HTTP. What refuses it is no news."""
        desk = self._desk
        with contextlib.suppress(OptimusError), desk.service.permit() as request_id:
            prompt = desk.prompter.prompt(self._ask(number))
            exchange = Exchange(desk, request_id, PATH, prompt, time.perf_counter())
            task = asyncio.current_task()
            assert task is not None
            self._running[task] = exchange
            await exchange.complete()

    def _ask(self, number: int) -> Ask:
        text, rules = PROMPTS[number % len(PROMPTS)], self._desk.prompter.rules
        chat = self._desk.prompter.tokenizer.has_chat_template
        return Ask(
            inputs=({"role": "user", "content": text},) if chat else text,
            openai=True,
            temperature=1.0,
            seed=number,
            max_new_tokens=min(TOKENS, rules.max_total_tokens // 2),
        )

    def _allowed(self) -> int:
        """How many there may be: what others leave of three places in four."""
        service, settings = self._desk.service, self._desk.settings
        load = service.load()
        if load.free_pages * FREE < load.pages:
            # Requests grow into memory after they begin: no more do, and all go if somebody waits for it.
            unheard = sum(exchange is None or not len(exchange.answer) for exchange in self._running.values())
            return 0 if load.waiting > unheard else self.running
        places = min(settings.max_batch_size, settings.max_concurrent_requests)
        others = service.permits_taken - self.running
        return max(0, places - max(1, places // FREE) - others)
