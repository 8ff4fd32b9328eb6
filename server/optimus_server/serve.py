"""uvicorn as Optimus runs it: it drains before it stops, and can cut off a reader who takes nothing."""

import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from optimus_server.service import Service
from optimus_server.thread import calm_collector

logger = logging.getLogger(__name__)


class Protocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Tells the application how to break a connection off: ``scope["state"]["abort"]``.

    ASGI has no word for it. Closing would first send what is buffered, to a reader who takes nothing.
    """

    app_state: dict[str, Any]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = self.app_state | {"abort": transport.abort}


def configuration(app: Any, **options: Any) -> uvicorn.Config:
    """What is the same in production and in tests."""
    return uvicorn.Config(
        app, http=Protocol, log_config=None, access_log=False, timeout_graceful_shutdown=5, **options
    )  # fmt: skip


class Server(uvicorn.Server):
    """Drains before it stops, and says when it is ready.

    Args:
        ready: called once it listens.
    """

    def __init__(self, app: Any, drain: "Drain", ready: Callable[[], None]) -> None:
        super().__init__(configuration(app))
        self._drain = drain
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        calm_collector()
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain.signal(self, sig)

    async def on_tick(self, counter: int) -> bool:
        self._drain.tick(self)
        return bool(await super().on_tick(counter))


class Drain:
    """What SIGTERM and SIGINT do.

    After the first, the port stays open, /health and new requests get 503, and running answers have ``timeout_s``
    to end; those that have not then get an error event, and the server stops with exit code 0. The second ends
    that time at once, the third does not even wait for the error events.
    """

    def __init__(self, service: Service, timeout_s: float) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self._signals: list[int] = []
        self._deadline: float | None = None

    def signal(self, server: Any, sig: int) -> None:
        """Runs in the signal handler: only sets flags."""
        self._signals.append(sig)
        self._service.draining = True
        if len(self._signals) > 2:
            server.should_exit = server.force_exit = True

    def tick(self, server: Any) -> None:
        """Runs ten times a second in the event loop."""
        if not self._signals or server.should_exit:
            return
        if self._deadline is None:
            self._deadline = time.monotonic() + self._timeout_s
            logger.info(
                "%s: stopping; %d requests running, up to %.0f s to end",
                signal.Signals(self._signals[0]).name, self._service.permits_taken, self._timeout_s,
            )  # fmt: skip
        if not self._service.idle and (time.monotonic() > self._deadline or len(self._signals) > 1):
            self._service.fail_all()
            server.should_exit = True
        server.should_exit = server.should_exit or self._service.idle
