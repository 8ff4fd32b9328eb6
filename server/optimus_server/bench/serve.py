"""``optimus bench serve``: latency and throughput of a running server that speaks OpenAI's API or TGI's.

Questions come from the demo model's tasks or a task file; answers are judged, and no figures come from wrong ones.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx

from optimus_server.bench.client import Client, Recording, Target, clock
from optimus_server.bench.figures import Point, Slo, summarise
from optimus_server.bench.flags import machine, not_negative, positive
from optimus_server.bench.load import Send, Watch, closed_loop, open_loop
from optimus_server.bench.plots import draw, need_matplotlib
from optimus_server.bench.questions import choose
from optimus_server.bench.trace import Trace, read
from optimus_server.bench.workload import add_lengths, workload_of
from optimus_server.demo import MODELS
from optimus_server.demo.evaluate import MAX_NEW_TOKENS, Question
from optimus_server.errors import OptimusError, SettingsError
from optimus_server.text.tokenizer import Tokenizer

RIGHT_ENOUGH = 0.9

Understand = Callable[[Recording], Trace]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench serve``."""
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:3000", help="the server, without a route")
    add("--api", choices=["openai", "tgi"], default="openai")
    add("--model", help="name that OpenAI's routes want (default: the first that /v1/models lists)")
    add("--api-key", help="sent as `Authorization: Bearer KEY`")
    loads = parser.add_mutually_exclusive_group()
    loads.add_argument("--concurrency", type=positive, nargs="+", help="closed loop: clients (default: 1 4 16)")
    loads.add_argument("--rate", type=_rate, nargs="+", help="open loop: requests a second, Poisson arrivals")
    add("--requests", type=positive, help="of each load (default: 8 a client, at least 64; 100 in an open loop)")
    add("--warm-up", type=not_negative, default=2, help="requests sent before the first load, not counted")
    add("--tasks", type=Path, help="task file (default: the demo model's held-out tasks, other ones for each load)")
    add("--task", nargs="+", default=(), metavar="NAME", help="questions of these tasks only")
    add_lengths(parser)
    add("--seed", type=int, default=1, help="of the demo's questions and of arrivals")
    add("--count", choices=["usage", "text"], default="usage", help="tokens: the server's usage, or those of the text")
    add("--max-tokens", type=positive, default=MAX_NEW_TOKENS, help="tokens an answer may have")
    add("--extra", type=_object, default={}, help="JSON fields of every request (on TGI's routes of its parameters)")
    add("--tokenizer", type=Path, help="model directory, for TGI's routes and --count (default: the demo's)")
    add("--slo-ttft-ms", type=float, help="time to first token that a good request keeps")
    add("--slo-tpot-ms", type=float, help="time per output token that a good request keeps")
    add("--slo-e2e-ms", type=float, help="whole time that a good request keeps")
    add("--right", type=float, default=RIGHT_ENOUGH, help="share of right answers below which nothing is reported")
    add("--timeout", type=float, default=600.0, help="seconds that one request may take")
    add("--label", help="name of this run in plots (default: the model's)")
    add("--json", type=Path, help="write all figures to this file, too")
    add("--plot", type=Path, help="write a PNG of throughput and latencies over the load")
    add("--against", type=Path, nargs="+", default=[], help="JSON of earlier runs, for the plot")


def _rate(text: str) -> float:
    if not 0 < (value := float(text)) < 1e6:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value


class NoFigures(Exception):
    """What was measured means nothing: answers are wrong or missing."""


def run(args: argparse.Namespace) -> int:
    """Measure, check, print; 0, or 1 if answers were wrong or missing, or 2 if nothing could be measured."""
    try:
        if args.plot:
            need_matplotlib()
        earlier = [json.loads(path.read_text()) for path in args.against]
        report = asyncio.run(_measure(args))
    except NoFigures as error:
        print(f"no figures: {error}", file=sys.stderr)
        return 1
    except (OptimusError, OSError, ValueError, httpx.HTTPError) as error:
        print(f"optimus bench serve: {error}", file=sys.stderr)
        return 2
    _print(report)
    if args.plot:
        draw([*earlier, report], args.plot)
    return 0


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    url = args.url.rstrip("/").removesuffix("/v1")
    server = await _server(url, args)
    place = args.tokenizer or (None if args.tasks else MODELS / "demo")
    if args.count == "text" and not place:
        raise SettingsError("--count text of a task file needs --tokenizer", param="tokenizer")
    tokenizer = Tokenizer.load(place) if place and (args.api == "tgi" or args.count == "text") else None
    target = Target(url, args.api, server["model"], args.max_tokens, args.extra, tokenizer)
    length = (lambda text: len(tokenizer.encode(text))) if tokenizer and args.count == "text" else None
    understand = partial(read, api=args.api, length=length)
    send = Client(target, args.api_key, args.timeout).send
    slo = Slo(args.slo_ttft_ms, args.slo_tpot_ms, args.slo_e2e_ms)
    if args.warm_up:
        first = _questions(args, args.warm_up, -1)
        _check([understand(await send(question, clock())) for question in first], "warm-up", 0.0)
    report: dict[str, Any] = {
        "label": args.label or server["model"],
        "server": server | {"url": url, "api": args.api},
        "client": machine("cpu"),
        "load": "requests a second" if args.rate else "concurrent clients",
        "questions": str(args.tasks or f"the demo model's, {workload_of(args)}, seed {args.seed}"),
        "extra": args.extra,
        "slo": asdict(slo),
        "points": [],
    }
    for number, load in enumerate(args.rate or args.concurrency or [1, 4, 16]):
        report["points"].append(asdict(await _point(send, understand, args, load, number, slo)))
        if args.json:  # after each load: a later one may fail
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


async def _server(url: str, args: argparse.Namespace) -> dict[str, Any]:
    """What the server says about itself, where it says anything, and the model's name."""
    headers = {"authorization": f"Bearer {args.api_key}"} if args.api_key else {}
    # as the load itself: straight to the server, never through a proxy
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        response = await client.get("/info")
        told = response.status_code == 200 and "json" in response.headers.get("content-type", "")
        info: dict[str, Any] = response.json() if told else {}
        model = args.model or info.get("model_id")
        if not model and args.api == "openai":
            listed = await client.get("/v1/models")
            if listed.status_code != 200:
                raise SettingsError(f"{url}/v1/models answers {listed.status_code}; name the model with --model")
            model = listed.json()["data"][0]["id"]
    return {"model": model or "", "info": info}


def _questions(args: argparse.Namespace, count: int, number: int) -> list[Question]:
    """Those of load ``number`` (-1: warm-up): new ones of the demo's, unknown to prefix caches; a file goes round."""
    if args.tasks is None:
        seed = args.seed + number
        return list(choose(None, args.task, count, seed, context=args.context, answer=args.answer))
    begin = max(0, number) * count
    return list(islice(cycle(choose(args.tasks, args.task, None, 0)), begin, begin + count))


async def _point(
    send: Send, understand: Understand, args: argparse.Namespace, load: float, number: int, slo: Slo
) -> Point:
    """Run one load.

    Raises:
        NoFigures: requests failed, or answers are wrong.
    """
    if sys.stderr.isatty():
        print(f"load {load:g} ...", file=sys.stderr)
    few = 100 if args.rate else max(64, 8 * int(load))
    questions = _questions(args, args.requests or few, number)
    async with Watch() as watch:
        if args.rate:
            recordings = await open_loop(send, questions, load, args.seed + number)
        else:
            recordings = await closed_loop(send, questions, int(load))
    traces = [understand(recording) for recording in recordings]
    _check(traces, f"load {load:g}", args.right)
    alone = not args.rate and len(questions) < 2 * load
    return summarise(traces, load, slo, watch.report(recordings), whole=alone or len(questions) == 1)


def _check(traces: Sequence[Trace], where: str, enough: float) -> None:
    failed = [trace.problem for trace in traces if trace.problem and not trace.refused]
    if failed:
        raise NoFigures(f"{where}: {len(failed)} of {len(traces)} requests failed: {failed[0]}")
    if traces and all(trace.refused for trace in traces):
        raise NoFigures(f"{where}: all {len(traces)} requests were refused: {traces[0].problem}")
    verdicts = [t.question.accepts(t.text) for t in traces if t.question.scored and not t.refused]
    if sum(verdicts) < enough * len(verdicts):
        raise NoFigures(f"{where}: only {sum(verdicts)} of {len(verdicts)} answers are right")


def _print(report: dict[str, Any]) -> None:
    server, client = report["server"], report["client"]
    print(f"{server['url']}, {server['model']}; {', '.join(f'{k} {v}' for k, v in client.items())}")
    print(f"{report['load']}; questions: {report['questions']}; latencies in ms: p50 p90 p99")
    titles = "".join(f"{name:>21}" for name in ("TTFT", "TPOT", "whole request"))
    print(f"{'load':>6} {'requests/s':>10} {'tokens/s':>9}{titles} {'good/s':>7} {'in SLO':>7} {'right':>9} refused")
    for point in report["points"]:
        spreads = "".join(_spread(point[name]) for name in ("ttft", "tpot", "e2e"))
        right = f"{point['right']}/{point['judged']}"
        print(
            f"{point['load']:6g} {point['requests_per_second']:10.2f} {point['tokens_per_second']:9.0f}{spreads} "
            f"{point['goodput']:7.2f} {point['attainment']:7.1%} {right:>9} {point['refused']:7}"
        )
    for point in report["points"]:
        if reason := point["client"]["saturated"]:
            print(f"load {point['load']:g}: the client itself was busy ({reason}); the server may be faster than this")
    if any(point["counted"] == "text" for point in report["points"]):
        print("tokens are those of the answers' text, whatever the server counts")
    if any(point["counted"] == "events" for point in report["points"]):
        print("the server reports no usage: tokens are events that held text")


def _spread(spread: dict[str, float] | None) -> str:
    """Three percentiles in 21 columns."""
    if spread is None:
        return f"{'-':>21}"
    values = [spread[name] for name in ("p50", "p90", "p99")]
    return "".join(f"{value:7.1f}" if value < 100 else f"{value:7.0f}" for value in values)
