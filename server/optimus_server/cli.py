"""The command ``optimus``: flags to settings, and what a person sees while a server starts."""

import argparse
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from optimus_server import __version__, settings
from optimus_server.errors import ModelError, SettingsError
from optimus_server.settings import Settings

if TYPE_CHECKING:
    from optimus_server.service import Service

logger = logging.getLogger("optimus_server")

CURL = """\
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "{question}"}}], "stream": true}}'"""
QUESTION = "How does diffusion decoding work?"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code, 2 for settings or a model that cannot be served."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    try:
        return int(args.run(args))
    except (SettingsError, ModelError) as error:
        print(f"optimus: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; of the commands that import torch, only the one that is called is imported."""
    parser = argparse.ArgumentParser(prog="optimus", description="Serve diffusion LLMs with elastic decoding.")
    parser.add_argument("--version", action="version", version=f"optimus {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve a model over HTTP", description="Serve a model over HTTP.")
    serve.add_argument("model", nargs="?", metavar="MODEL", help="model directory (default: the demo model)")
    settings.add_arguments(serve)
    serve.set_defaults(run=_serve)

    demo = commands.add_parser("demo", help="train or evaluate the demo model")
    if "demo" in argv[:1]:
        from optimus_server.demo import command

        command.add_arguments(demo)
        demo.set_defaults(run=command.run)

    bench = commands.add_parser("bench", help="measure speed")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="KIND")
    decode = kinds.add_parser("decode", help="decoding speed of the engine, without HTTP")
    if list(argv[:2]) == ["bench", "decode"]:
        from optimus_server.bench import decode as bench_decode

        bench_decode.add_arguments(decode)
        decode.set_defaults(run=bench_decode.run)
    return parser


def _serve(args: argparse.Namespace) -> int:
    flags = {name: value for name, value in vars(args).items() if name not in ("command", "run", "model")}
    if args.model is not None and flags.setdefault("model_id", args.model) != args.model:
        raise SettingsError(f"the model is given twice: {args.model} and --model-id {flags['model_id']}")
    chosen, warnings = settings.load(flags)
    _set_up_logging(as_json=chosen.json_output)
    for warning in warnings:
        logger.warning("%s", warning)
    listener = _listen(chosen)
    with listener:
        # Importing torch and transformers takes seconds; bad flags and a taken port should not.
        import uvicorn

        from optimus_server.app import create_app
        from optimus_server.backend import build_backend

        began = time.perf_counter()
        app = create_app(chosen, build_backend(chosen))

        class Server(uvicorn.Server):
            """Drains before it stops, and says when it is ready."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                _announce(listener, time.perf_counter() - began, example=not chosen.json_output)

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                drain.signal(self, sig)

            async def on_tick(self, counter: int) -> bool:
                drain.tick(self)
                return bool(await super().on_tick(counter))

        drain = Drain(app.state.desk.service, chosen.graceful_termination_timeout)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        server = Server(config)
        server.run(sockets=[listener])
    return 0 if server.started else 1


class Drain:
    """What SIGTERM and SIGINT do.

    After the first, the port stays open, /health and new requests get 503, and running answers have ``timeout_s``
    to end; those that have not then get an error event, and the server stops with exit code 0. The second ends
    that time at once, the third does not even wait for the error events.
    """

    def __init__(self, service: "Service", timeout_s: float) -> None:
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


def _listen(chosen: Settings) -> socket.socket:
    """The listening socket, bound before the model is loaded."""
    family = socket.AF_INET6 if ":" in chosen.hostname else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((chosen.hostname, chosen.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on --hostname {chosen.hostname} --port {chosen.port}: {error.strerror or error}"
        ) from None
    return listener


def _announce(listener: socket.socket, seconds: float, *, example: bool) -> None:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logger.info("Ready in %.1f s: %s", seconds, url)
    if sys.stderr.isatty() or not any(isinstance(h.formatter, JsonLines) for h in logging.getLogger().handlers):
        print(f"\nTry:\n{CURL.format(url=url, question=QUESTION)}\n", file=sys.stderr, flush=True)


def _set_up_logging(*, as_json: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logger.setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line, with TGI's keys."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"
        line = {
            "timestamp": stamp,
            "level": record.levelname,
            "message": record.getMessage(),
            "target": record.name,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
