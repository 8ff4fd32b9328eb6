"""``optimus log`` and ``optimus migrate``: flags, and what is printed."""

import argparse
import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from rich.console import Console

from optimus_server import flags
from optimus_server.errors import SettingsError
from optimus_server.store import render
from optimus_server.store.answers import Detail
from optimus_server.store.export import TABLES, export
from optimus_server.store.migrate import head, migrate
from optimus_server.store.queries import GROUPS, Filter, Log
from optimus_server.store.replay import replay
from optimus_server.store.retention import Retention, sweep
from optimus_server.store.session import file_of, log_url, shown, writer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its commands to the parser of ``optimus log``."""
    commands = parser.add_subparsers(dest="log_command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Log, argparse.Namespace], int] | None, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        add_place(made)
        made.set_defaults(log_run=run)
        return made

    some = command("list", _list, "requests, newest first")
    _add_filter(some)
    some.add_argument("--limit", type=int, default=20, help="how many (default: 20)")

    one = command("show", _show, "everything about one request")
    one.add_argument("request", help="its x-request-id, or its id in the log")
    one.add_argument("--json", action="store_true", help="print its columns and steps as JSON")

    figures = command("stats", _stats, "figures of requests, by what they have in common")
    figures.add_argument("--by", choices=[*GROUPS, "chunk", "reason"], default="hour", help="(default: hour)")
    _add_filter(figures)

    file = command("export", _export, "write a table to a .csv or .parquet file")
    file.add_argument("file", type=Path)
    file.add_argument("--table", choices=list(TABLES), default="requests", help="(default: requests)")
    _add_filter(file)

    again = command("replay", _replay, "replay one request's denoising")
    again.add_argument("request", help="its x-request-id, or its id in the log")
    again.add_argument("--speed", type=float, default=1.0, help="times as fast as it was; 0 shows the end at once")

    less = command("prune", None, "forget requests now, by age or size")
    less.add_argument("--days", type=int, help="forget what is older")
    less.add_argument("--max-mb", type=int, help="forget the oldest until an SQLite log has so many MiB")


def add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-db", default=argparse.SUPPRESS, help="the log: a file or a postgresql:// URL")


def run(args: argparse.Namespace) -> int:
    """Run the command of ``optimus log`` that was parsed; returns the exit code."""
    if args.log_command == "prune":
        return _prune(args)
    with Log(_place(args)) as log:
        return int(args.log_run(log, args))


def run_migrate(args: argparse.Namespace) -> int:
    """``optimus migrate``."""
    place = _place(args)
    before = migrate(log_url(place))
    print(f"{shown(log_url(place))}: revision {head()}" + ("" if before == head() else f", was {before or 'new'}"))
    return 0


def _list(log: Log, args: argparse.Namespace) -> int:
    _console().print(render.requests(log.requests(_filter(args), limit=args.limit)))
    return 0


def _show(log: Log, args: argparse.Namespace) -> int:
    found = _find(log, args)
    if args.json:
        row = {name: value.hex() if isinstance(value, bytes) else value for name, value in found.request.items()}
        steps = [step._asdict() for step in found.steps]
        text = {"prompt": found.prompt, "output": found.output}
        print(json.dumps({"request": row, "instance": found.instance, "steps": steps} | text, indent=2))
    else:
        _console().print(render.detail(found))
    return 0


def _stats(log: Log, args: argparse.Namespace) -> int:
    which = _filter(args)
    if args.by == "chunk":
        _console().print(render.chunks(log.chunks(which)))
    elif args.by == "reason":
        _console().print(render.reasons(log.reasons(which.since_us or 0)))
    else:
        _console().print(render.stats(args.by, log.stats(args.by, which)))
    return 0


def _export(log: Log, args: argparse.Namespace) -> int:
    count = export(log, args.file, args.table, _filter(args))
    print(f"{args.file}: {count} rows of {args.table}")
    return 0


def _replay(log: Log, args: argparse.Namespace) -> int:
    found = _find(log, args)
    if not found.steps:
        raise SettingsError(f"the log has no steps of {args.request}")
    replay(found, Console(), speed=args.speed)
    return 0


def _prune(args: argparse.Namespace) -> int:
    if min(args.days or 0, args.max_mb or 0) < 0:
        raise SettingsError("--days and --max-mb must be >= 0")
    if args.days is None and args.max_mb is None:
        raise SettingsError("give --days or --max-mb")
    url = log_url(_place(args))
    if (file := file_of(url)) and not file.exists():
        raise SettingsError(f"there is no request log {file}")
    engine = writer(url)
    try:
        print(f"{shown(url)}: {sum(sweep(engine, Retention(args.days, args.max_mb)))} requests forgotten")
    finally:
        engine.dispose()
    return 0


def _place(args: argparse.Namespace) -> str:
    given = {"log_db": args.log_db} if "log_db" in args else {}
    place = flags.load(given)[0].log_place
    if place is None:
        raise SettingsError("the request log is switched off: name one with --log-db")
    return place


def _find(log: Log, args: argparse.Namespace) -> Detail:
    found = log.request(args.request)
    if found is None:
        raise SettingsError(f"the log has no request {args.request}")
    return found


def _console() -> Console:
    """As wide as the terminal; in a pipe as wide as the lines."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _add_filter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", type=_time, help="arrived since: 30m, 24h, 7d, or a date such as 2026-01-31")
    parser.add_argument("--until", type=_time, help="arrived before")
    parser.add_argument("--failed", action="store_true", help="with an error status")
    parser.add_argument("--status", type=int)
    parser.add_argument("--client", help="as `optimus log list` shows it")
    parser.add_argument("--endpoint", help="such as /generate")
    parser.add_argument("--finish", help="finish reason, such as length")
    parser.add_argument("--min-ms", type=float, help="that took at least so long")


def _filter(args: argparse.Namespace) -> Filter:
    return Filter(
        since_us=args.since, until_us=args.until, failed=args.failed, status=args.status, client=args.client,
        endpoint=args.endpoint, finish_reason=args.finish, min_ms=args.min_ms,
    )  # fmt: skip


def _time(text: str) -> int:
    """Microseconds since 1970.

    Example: ``24h`` -> a day ago, ``2026-01-31T12:00`` -> then, local time.
    """
    if match := re.fullmatch(r"(\d+)([smhdw])", text):
        return time.time_ns() // 1000 - int(match[1]) * _UNITS[match[2]] * 10**6
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e6)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be like 30m, 24h, 7d, 2026-01-31 or 2026-01-31T12:00, not {text}"
        ) from None
