"""Who may have the engine work: so many holders at once, so many tokens in the queue."""

import contextlib
import uuid
from collections.abc import Iterator

from optimus_server.errors import Overloaded


class Permits:
    """Touched by the event loop only.

    Args:
        count: holders at once.
        queue_tokens: how much may wait for its first step; None is no limit.

    Attributes:
        reserved: ids that nobody may have yet, besides those of holders.
    """

    def __init__(self, count: int, queue_tokens: int | None) -> None:
        self._count = count
        self._queue_tokens = queue_tokens
        self._holders: set[str] = set()
        self._queued: dict[str, int] = {}
        self.reserved: set[str] = set()

    @property
    def taken(self) -> int:
        return len(self._holders)

    @property
    def queued_tokens(self) -> int:
        return sum(self._queued.values())

    @contextlib.contextmanager
    def hold(self, wish: str | None = None) -> Iterator[str]:
        """One permit, without waiting for it; yields its holder's id, which is ``wish`` unless that is in use.

        Raises:
            Overloaded: all are taken.
        """
        if len(self._holders) >= self._count:
            raise Overloaded
        taken = self._holders | self.reserved
        holder = wish if wish and wish not in taken else uuid.uuid4().hex
        self._holders.add(holder)
        try:
            yield holder
        finally:
            self._holders.remove(holder)
            self.dequeue(holder)

    def enqueue(self, holder: str, tokens: int) -> None:
        """Count a holder's tokens, those it may generate included, as waiting.

        A request that is larger than the whole queue may wait in an empty one.

        Raises:
            Overloaded: too many tokens wait already.
        """
        waiting = self.queued_tokens
        if self._queue_tokens is not None and waiting and waiting + tokens > self._queue_tokens:
            raise Overloaded
        self._queued[holder] = tokens

    def dequeue(self, holder: str) -> None:
        """It waits no longer: its first event is here, or it has gone."""
        if self._queued:
            self._queued.pop(holder, None)
