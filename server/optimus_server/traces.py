"""The engine's traces in the event loop: handed to whoever watches all of them, and to readers of one request."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from optimus_server.engine.telemetry import Feed, RowTrace, StepTrace, Subscription

UNREAD = 1024
"""Traces that may wait for a busy event loop; of more the oldest are lost, which no token depends on."""

Watcher = Callable[[StepTrace], None]
Follower = Callable[[StepTrace, RowTrace], None]


class Traces:
    """One subscription to a feed for all listeners; while nobody listens there is none, and nothing is built."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._subscription: Subscription | None = None
        self._watchers: list[Watcher] = []
        self._followers: dict[str, Follower] = {}

    @contextlib.contextmanager
    def watch(self, watcher: Watcher) -> Iterator[None]:
        """Hear of every step while the block runs, in the running event loop."""
        self._watchers.append(watcher)
        self._listen()
        try:
            yield
        finally:
            self._watchers.remove(watcher)
            self._rest()

    @contextlib.contextmanager
    def follow(self, request_id: str, follower: Follower) -> Iterator[None]:
        """Hear of one request's part of every step."""
        self._followers[request_id] = follower
        self._listen()
        try:
            yield
        finally:
            del self._followers[request_id]
            self._rest()

    def _listen(self) -> None:
        if self._subscription is None:
            loop = asyncio.get_running_loop()

            def wake() -> None:
                # The loop may be closed when a late step ends during shutdown; nobody listens then.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._hand_on)

            self._subscription = self._feed.subscribe(UNREAD, wake)

    def _rest(self) -> None:
        if self._subscription and not self._watchers and not self._followers:
            self._feed.unsubscribe(self._subscription)
            self._subscription = None

    def _hand_on(self) -> None:
        for trace in self._subscription.drain() if self._subscription else ():
            for watcher in tuple(self._watchers):
                watcher(trace)
            if self._followers:
                for row in trace.rows:
                    if follower := self._followers.get(row.request_id):
                        follower(trace, row)
