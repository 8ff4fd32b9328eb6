"""What the admin routes work with: who is let in, what is shown, what is turned, and the log that is asked."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field, replace
from time import time_ns
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from optimus_server.api.admin.access import Access
from optimus_server.api.admin.board import AUDIT, TICK_S, Board
from optimus_server.api.bulletin import Bulletin
from optimus_server.api.sse import named_event
from optimus_server.errors import Refused
from optimus_server.service import Service
from optimus_server.settings import Settings
from optimus_server.store.queries import Log
from optimus_server.store.recorder import Recorder
from optimus_server.store.records import ActionRecord

logger = logging.getLogger(__name__)

UNSENT = 16
"""Ticks that wait for a slow page; of more the oldest are lost."""

P = ParamSpec("P")
T = TypeVar("T")


class Reader:
    """One open page: the ticks it has not been sent."""

    def __init__(self) -> None:
        self._unsent: deque[bytes] = deque(maxlen=UNSENT)
        self._filled = asyncio.Event()

    def put(self, write: bytes) -> None:
        self._unsent.append(write)
        self._filled.set()

    async def take(self) -> bytes:
        await self._filled.wait()
        self._filled.clear()
        write = b"".join(self._unsent)
        self._unsent.clear()
        return write


@dataclass(frozen=True, slots=True)
class Office:
    """``request.app.state.office``, None where there are no admin pages."""

    access: Access
    board: Board
    service: Service
    bulletin: Bulletin
    recorder: Recorder | None
    log: Log | None
    _readers: list[Reader] = field(default_factory=list)

    @classmethod
    def of(
        cls, settings: Settings, service: Service, bulletin: Bulletin, *, block_size: int, recorder: Recorder | None
    ) -> "Office | None":
        access = Access.of(settings)
        if access is None:
            return None
        log = Log(recorder.url) if recorder else None
        return cls(access, Board(service, block_size, recorder), service, bulletin, recorder, log)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None, None]:
        """Watch the engine while the block runs."""
        if self.log:
            # Without a readable log the page starts with an empty trail, and says so where it asks for more.
            with contextlib.suppress(Refused):
                self.board.audit.extend(map(shown_action, reversed(await self.ask(self.log.actions, limit=AUDIT))))
        ticking = asyncio.create_task(self._run())
        try:
            with self.service.traces.watch(self.board.stepped), self.bulletin.read(self.board.told):
                yield
        finally:
            ticking.cancel()
            if self.log:
                self.log.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self._readers:
                self.board.requests.look()
            tick = self.board.tick(watched=bool(self._readers))
            if tick:
                # Written once, however many pages are open.
                write = named_event({"type": "tick"} | tick)
                for reader in self._readers:
                    reader.put(write)

    @property
    def open_pages(self) -> int:
        """Live pages that read along."""
        return len(self._readers)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Reader]:
        """A page that is open while the block runs."""
        reader = Reader()
        self._readers.append(reader)
        try:
            yield reader
        finally:
            self._readers.remove(reader)

    async def ask(self, question: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Ask the log, in a thread.

        Raises:
            Refused: 503, the database does not answer.
        """
        try:
            return await asyncio.to_thread(question, *args, **options)
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).strip().split("\n")[0][:200]
            raise Refused(f"the request log cannot be read: {cause}", status=503, code="admin") from None

    def record(self, request: Request, action: str, detail: str = "") -> None:
        """Write down what an operator has done: in the server's log, in the request log, and on the page."""
        address = address_of(request)
        logger.warning("Admin: %s %s [by %s]", action, detail, address)
        record = ActionRecord(t_us=time_ns() // 1000, action=action, detail=detail, address=address)
        if self.recorder:
            self.recorder.submit(record)
        row = {"t_us": record.t_us, "action": action, "detail": detail, "address": address}
        self.board.audit.append(shown_action(row))

    def turn(self, request: Request, action: str, detail: str, **changes: Any) -> None:
        """Change knobs, and write it down."""
        self.service.turn(replace(self.service.knobs, **changes))
        self.record(request, action, detail)


def office_of(request: Request) -> Office:
    """Raises Refused with 404 where there are no admin pages."""
    office = request.app.state.office
    if office is None:
        raise Refused(f"{request.method} {request.url.path}: Not Found", status=404, code="not_found")
    assert isinstance(office, Office)
    return office


def address_of(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def shown_action(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the trail as the pages show it."""
    return {"at": row["t_us"] / 1e6, "action": row["action"], "detail": row["detail"], "address": row["address"]}
