"""The command ``optimus``: flags to settings, and what a person sees while a server starts."""

import argparse
import contextlib
import importlib
import json
import logging
import socket
import sys
import time
from collections.abc import Sequence

from optimus_server import __version__, flags, logs
from optimus_server.errors import ModelError, SettingsError
from optimus_server.settings import Settings

logger = logging.getLogger("optimus_server")

CURL = """\
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "{question}"}}], "stream": true}}'"""
QUESTION = "How does diffusion decoding work?"

BENCHMARKS = {
    "decode": "decoding speed of the engine, without HTTP",
    "step": "the time of a step against the least it can take",
    "page": "the results page of the README: decode, step and serve on a large geometry, on a GPU",
    "serve": "latency and throughput of a running server, over HTTP",
    "accuracy": "accuracy and tokens per step of a checkpoint, policy x chunk size",
    "simulate": "the controller against every fixed chunk size, on a simulated GPU",
}
"""Each has a module in ``bench``, which holds its flags."""


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
    flags.add_arguments(serve)
    serve.set_defaults(run=_serve)

    profile = commands.add_parser(
        "profile", help="measure step times of a model on this machine, which the server chooses chunk sizes by"
    )
    profile.add_argument("model", nargs="?", metavar="MODEL", help="model directory (default: the demo model)")
    flags.add_arguments(profile)
    profile.set_defaults(run=_profile)

    demo = commands.add_parser("demo", help="train the demo model, judge its answers, or widen it to a large geometry")
    if "demo" in argv[:1]:
        from optimus_server.bench import accuracy
        from optimus_server.demo import command

        demo.set_defaults(run=command.run)
        evaluation = command.add_arguments(demo).add_parser(
            "eval", help="judge its answers to held-out prompts: the same as `optimus bench accuracy`"
        )
        accuracy.add_arguments(evaluation)
        evaluation.set_defaults(run=accuracy.run)

    log = commands.add_parser("log", help="ask the request log")
    migrate = commands.add_parser("migrate", help="bring the request log's tables up to date")
    if argv[:1] and argv[0] in ("log", "migrate"):
        from optimus_server.store import command as store_command

        store_command.add_arguments(log)
        log.set_defaults(run=store_command.run)
        store_command.add_place(migrate)
        migrate.set_defaults(run=store_command.run_migrate)

    bench = commands.add_parser("bench", help="measure speed and accuracy")
    kinds = bench.add_subparsers(dest="bench", required=True, metavar="KIND")
    for kind, text in BENCHMARKS.items():
        chosen = kinds.add_parser(kind, help=text)
        if list(argv[:2]) == ["bench", kind]:
            module = importlib.import_module(f"optimus_server.bench.{kind}")
            module.add_arguments(chosen)
            chosen.set_defaults(run=module.run)
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    given = {name: value for name, value in vars(args).items() if name not in ("command", "run", "model")}
    if args.model is not None and given.setdefault("model_id", args.model) != args.model:
        raise SettingsError(f"the model is given twice: {args.model} and --model-id {given['model_id']}")
    chosen, warnings = flags.load(given)
    logs.set_up(as_json=chosen.json_output)
    for warning in warnings:
        logger.warning("%s", warning)
    return chosen


def _profile(args: argparse.Namespace) -> int:
    """Measure, store for the next start, and print as the file that `optimus bench simulate --profile` takes."""
    from optimus_server.backend import build_engine, measured

    engine, runner, _ = build_engine(_settings(args))
    print(json.dumps(measured(engine, runner, again=True).to_json()))
    return 0


def _serve(args: argparse.Namespace) -> int:
    chosen = _settings(args)
    with contextlib.ExitStack() as held:
        listener = held.enter_context(_listen(chosen))
        # Importing torch and transformers takes seconds; bad flags, a taken port and a bad log should not.
        from optimus_server.store import start

        open_log = start.prepare(chosen)

        from optimus_server.app import create_app, instance
        from optimus_server.process import build
        from optimus_server.serve import Drain, Server

        began = time.perf_counter()
        backend = build(chosen)
        recorder = open_log(instance(chosen, backend)) if open_log else None
        if recorder:
            # After the last stream, which may end later than the application.
            held.callback(recorder.close)
        app = create_app(chosen, backend, recorder)
        server = Server(
            app,
            Drain(app.state.desk.service, chosen.graceful_termination_timeout),
            ready=lambda: _announce(listener, time.perf_counter() - began, example=not chosen.json_output),
        )
        server.run(sockets=[listener])
    return 0 if server.started else 1


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
    if example:
        print(f"\nTry:\n{CURL.format(url=url, question=QUESTION)}\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
