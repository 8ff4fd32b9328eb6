"""The only bridge between the engine and asyncio.

The engine lives in a thread or in a process of its own (``Host``). Requests and cancellations go there as messages; the
events of one step come back in one call into the event loop, however many requests they are for.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack

from optimus_server.engine.request import Committed, Request
from optimus_server.errors import (
    EngineStopped,
    OptimusError,
    ShuttingDown,
    TimedOut,
    Unavailable,
)
from optimus_server.inbox import Add, Cancel, Knobs, LoadLike, Stop, Turn
from optimus_server.mailbox import Mailbox, Traced
from optimus_server.permits import Permits
from optimus_server.text.prompt import Prompt
from optimus_server.thread import Host, Told
from optimus_server.traces import Traces

logger = logging.getLogger(__name__)

STUCK_AFTER_S = 120.0
"""A step that takes longer makes /health fail. The slowest honest one, prefill on a CPU, takes seconds."""


class Service:
    """Runs an engine for many readers.

    Args:
        host: where the engine lives; it starts and ends with the service.
        block_size, shift: of the model, for the requests it makes.
        max_concurrent: permits; one request holds one from ``permit`` to the end of its answer.
        max_queue_tokens: how much may wait for its first step.
        timeout_s: how long a request may take from ``submit`` on.
        tpot_s: the engine's target for the time per output token, until an operator sets another.

    Attributes:
        draining: set before a shutdown: new requests are refused, running ones go on.
        traces: what the engine tells of its steps.
        knobs: as an operator has set them; change them with ``turn``.
    """

    def __init__(
        self,
        host: Host,
        *,
        block_size: int,
        shift: int,
        max_concurrent: int,
        max_queue_tokens: int | None = None,
        timeout_s: float | None = None,
        tpot_s: float | None = None,
    ) -> None:
        self._host = host
        self._block_size = block_size
        self._shift = shift
        self._permits = Permits(max_concurrent, max_queue_tokens)
        self._timeout_s = timeout_s
        self._mailboxes: dict[str, Mailbox] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: str | None = None
        self._closed = False
        self.traces = Traces(host.feed)
        self.draining = False
        self.knobs = Knobs(tpot_s=tpot_s)

    def start(self) -> None:
        """Start the engine; its events come to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._host.start(lambda told: self._call(self._deliver, told), lambda error: self._call(self._die, error))

    def fail_all(self) -> None:
        """End every request now, and those still to come: their readers get ``ShuttingDown``."""
        self._closed = True
        for request_id in self._mailboxes:
            self._end(request_id, ShuttingDown())

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End the engine after its step; requests that still run end with ``ShuttingDown``."""
        self.draining = True
        self.fail_all()
        self._host.put(Stop())
        await asyncio.to_thread(self._host.join, timeout_s)

    @property
    def permits_taken(self) -> int:
        return self._permits.taken

    @property
    def idle(self) -> bool:
        """No request holds a permit."""
        return self._permits.taken == 0

    @property
    def broken(self) -> str | None:
        """Why this server must be restarted; None if it need not."""
        if self._error:
            return self._error
        began = self._host.step_began
        if began is not None and time.monotonic() - began > STUCK_AFTER_S:
            return f"the engine has been in one step for more than {STUCK_AFTER_S:.0f} s"
        return None

    @property
    def problem(self) -> str | None:
        """Why this server should not be sent requests; None if it should."""
        return self.broken or self._closed_because

    @property
    def _closed_because(self) -> str | None:
        if self.draining:
            return "Server is shutting down"
        return "The server takes no requests now" if self.knobs.closed else None

    def load(self) -> LoadLike:
        return self._host.load()

    @property
    def held(self) -> int:
        """Requests that wait outside the engine for the end of a pause."""
        return self._host.held

    def turn(self, knobs: Knobs) -> None:
        """Set all knobs; the engine follows before its next step."""
        self.knobs = knobs
        self._host.put(Turn(knobs))

    @contextlib.contextmanager
    def permit(self, wish: str | None = None) -> Iterator[str]:
        """One of the permits, without waiting for it; yields the id under which its holder may submit.

        Args:
            wish: the id to have, unless it is in use.

        Raises:
            Overloaded: all are taken.
            Unavailable: the server is draining, or closed by an operator.
            EngineStopped: the engine's thread has ended.
        """
        if self._error:
            raise EngineStopped(self._error)
        if because := self._closed_because:
            raise Unavailable(because)
        with self._permits.hold(wish) as request_id:
            yield request_id

    @property
    def queued_tokens(self) -> int:
        return self._permits.queued_tokens

    def enqueue(self, request_id: str, tokens: int) -> None:
        """Count a permit's tokens as waiting until its first event; see ``Permits.enqueue``."""
        self._permits.enqueue(request_id, tokens)

    @contextlib.contextmanager
    def submit(self, request_id: str, prompt: Prompt) -> Iterator[Mailbox]:
        """Run a prompt while the block runs; its mailbox iterates over the events of one step, or of several if the
        reader is slow. Leaving the block before the last event cancels the request.

        A prompt that asks for traces gets those of its steps among them.

        Reading raises:
            InvalidRequest: the engine can never run it.
            ShuttingDown, EngineStopped, TimedOut: the engine will not finish it.
        """
        assert request_id not in self._mailboxes
        request = Request(request_id, prompt.ids, prompt.params, block_size=self._block_size, shift=self._shift)
        mailbox = self._mailboxes[request_id] = Mailbox()
        if self._error:
            mailbox.put(EngineStopped(self._error))
        if self._closed:
            mailbox.put(ShuttingDown())
        self._host.put(Add(request))
        timer = None
        if self._timeout_s is not None:
            late = TimedOut(self._timeout_s)
            timer = asyncio.get_running_loop().call_later(self._timeout_s, self._end, request_id, late)
        try:
            with ExitStack() as followed:
                if prompt.traced:
                    hear = self.traces.follow(request_id, lambda step, row: mailbox.put(Traced(step, row)))
                    followed.enter_context(hear)
                yield mailbox
        finally:
            if timer:
                timer.cancel()
            del self._mailboxes[request_id]
            if not mailbox.over:
                # The engine's present step may still tell of it.
                self._permits.reserved.add(request_id)
                self._host.put(Cancel(request_id))

    def _end(self, request_id: str, error: OptimusError) -> None:
        """Let a request fail now, and the engine forget it."""
        self._mailboxes[request_id].put(error)
        self._host.put(Cancel(request_id))

    def cancel(self, request_id: str) -> None:
        """Let a request end early; its reader gets ``Finished`` with what it has cost."""
        self._host.put(Cancel(request_id))

    def _call(self, function: object, *args: object) -> None:
        assert self._loop is not None
        # The loop may be closed when a late step ends during shutdown; nobody listens then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    def _deliver(self, events: Told) -> None:
        for request_id, event in events:
            self._permits.dequeue(request_id)
            if mailbox := self._mailboxes.get(request_id):
                mailbox.put(event)
            elif not isinstance(event, Committed):
                self._permits.reserved.discard(request_id)

    def _die(self, error: str) -> None:
        self._error = error
        for mailbox in self._mailboxes.values():
            mailbox.put(EngineStopped(error))
