"""Flags, tables and files of ``optimus bench simulate``."""

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from optimus_server.bench.flags import machine, positive
from optimus_server.bench.simulate import log, plots, scenarios, sustained
from optimus_server.bench.simulate.recording import DATA, Recording, record
from optimus_server.bench.simulate.scenarios import Setting, Settling, Steady, schemes
from optimus_server.bench.simulate.served import Served, served
from optimus_server.bench.simulate.sustained import Sustained
from optimus_server.bench.simulate.validate import validate
from optimus_server.bench.simulate.workload import arrivals
from optimus_server.bench.simulate.world import Arrival, Scheme, load_profile
from optimus_server.errors import SettingsError

SCENARIOS = ("constant", "prompts", "step", "profile", "arrivals")
BATCHES, QUICK_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (1, 8, 64)
LOADS = (8, 256, 8)
TPOT_S = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench simulate``."""
    parser.add_argument("--commits", default="demo", metavar="NAME", help="demo, demo-sdar or a file of --record")
    parser.add_argument(
        "--profile", default="h100-8b", help="step times: h100-8b, h200-8b or a file as `optimus profile` writes it"
    )
    parser.add_argument("--task", nargs="+", default=[], metavar="NAME", help="commits of these tasks only, e.g. story")
    parser.add_argument("--scenario", nargs="+", choices=(*SCENARIOS, "all"), default=["constant"])
    parser.add_argument("--batch", nargs="+", type=positive, help="requests at a time, of constant loads")
    parser.add_argument("--context", nargs="+", type=positive, default=[128], help="tokens of a prompt")
    parser.add_argument("--from-log", metavar="PLACE", help="serve the requests of this log (as --log-db) instead")
    parser.add_argument("--rate", type=float, metavar="N", help="serve requests that arrive at N a second instead")
    parser.add_argument("--bursty", action="store_true", help="with --rate: in bursts")
    parser.add_argument("--answer", type=positive, metavar="N", help="with --rate: tokens of answers (as recorded)")
    parser.add_argument("--rows", type=positive, default=sustained.MOST_ROWS, help="that run at once at most, served")
    parser.add_argument(
        "--scheme", nargs="+", metavar="NAME", default=[], help="served: these only, e.g. elastic 'chunk 8'"
    )
    parser.add_argument("--requests", type=positive, default=800, help="of each run with arrivals")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ahead", action="store_true", help="launch a step while the one before runs, as on a GPU")
    parser.add_argument("--quick", action="store_true", help="few points, short runs: figures of a few percent")
    parser.add_argument("--processes", type=positive, default=1, help="runs at the same time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file, too")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots to this directory, as PNG")
    parser.add_argument("--record", type=Path, metavar="MODEL", help="record this checkpoint's commits, and end")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to, with --record")
    parser.add_argument("--validate", type=Path, metavar="MODEL", help="compare replays of it with decoding, and end")
    parser.add_argument("--prompts", type=positive, default=404, help="prompts to record or to compare")


def _shipped(name: str, suffix: str) -> Path:
    """The file of that name which ships with Optimus, or else the one that is meant."""
    shipped = DATA / f"{name}{suffix}"
    return shipped if shipped.exists() else Path(name)


def run(args: argparse.Namespace) -> int:
    """Simulate and print; the exit code."""
    if args.record:
        if args.out is None:
            raise SettingsError("--record needs --out FILE", param="out")
        record(args.record, args.prompts).save(args.out)
        return 0
    if args.plots:
        plots.need_matplotlib()
    recording = Recording.load(_shipped(args.commits, ".npz")).of_tasks(args.task)
    setting = Setting(
        recording=recording, table=load_profile(_shipped(args.profile, ".json")), ahead=args.ahead, seed=args.seed
    )
    print(
        f"commits of {args.commits}, {', '.join(args.task) or 'all tasks'} ({len(recording.tasks)} requests), "
        f"step times of {Path(args.profile).stem}, seed {args.seed}"
    )
    if args.validate:
        _validate(args.validate, setting, args.prompts)
        return 0
    chosen = SCENARIOS if "all" in args.scenario else args.scenario
    report: dict[str, Any] = {
        "machine": machine("cpu"),
        "commits": args.commits,
        "tasks": args.task,
        "profile": Path(args.profile).stem,
        "seed": args.seed,
        "ahead": args.ahead,
    }
    if args.from_log or args.rate:
        report["served"] = _served(setting, args)
        chosen = []
    parts = {"constant": _constant, "prompts": _prompts, "step": _steps, "profile": _profiles, "arrivals": _arrivals}
    for name in chosen:
        report[name] = parts[name](setting, args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _validate(model: Path, setting: Setting, prompts: int) -> None:
    found = validate(model, setting.recording, setting.table, min(prompts, len(setting.recording.tasks)))
    print(
        "\n| chunk sizes | tasks | TPF, real | replayed | error | computed/token, real | replayed |\n"
        + f"|{' --- |' * 7}"
    )
    for one in found:
        print(
            f"| {one.script} | {'stories' if one.stories else 'others'} | {one.tpf[0]:.2f} | {one.tpf[1]:.2f} | "
            f"{one.error:+.1%} | {one.computed[0]:.2f} | {one.computed[1]:.2f} |"
        )


def _map(processes: int, function: Callable[..., Any], cases: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    if processes == 1:
        yield from (function(*case) for case in cases)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(function, *zip(*cases, strict=True))


def _constant(setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    batches = args.batch or (QUICK_BATCHES if args.quick else BATCHES)
    steps = 60 if args.quick else scenarios.STEPS
    settings = [replace(setting, context=context) for context in args.context]
    cases = [(one, batch, steps) for one in settings for batch in batches]
    seen: Iterator[list[Steady]] = _map(args.processes, scenarios.point, cases)
    prompts = "cached" if setting.shared else "computed"
    print(
        f"\nConstant load, prompts {prompts}: tokens a second, elastic over the others, changes of its level per 100 "
        "steps\n\n"
        "| context | batch | AR | block | best fixed chunk | elastic | over AR | over block | over best | chunk "
        "| changes |\n"
        f"|{' --- |' * 11}"
    )
    points: list[Steady] = []
    ratios = []
    for row in seen:
        points += row
        ar, block, *fixed, elastic = row
        best = max(fixed, key=lambda point: point.rate)
        ratios.append(elastic.rate / best.rate)
        print(
            f"| {ar.context} | {ar.batch} | {ar.rate:,.0f} | {block.rate:,.0f} | "
            f"{best.rate:,.0f} ({best.scheme[6:]}) | {elastic.rate:,.0f} | {elastic.rate / ar.rate:.2f} | "
            f"{elastic.rate / block.rate:.2f} | {ratios[-1]:.3f} | {elastic.chunk:.1f} | {elastic.changes:.1f} |",
            flush=True,
        )
    print(f"\nElastic over the best fixed chunk: mean {np.mean(ratios):.3f}, least {min(ratios):.3f}")
    if args.plots:
        plots.throughput(points, args.plots / ("throughput.png" if setting.shared else "throughput-prompts.png"))
    return [asdict(point) for point in points]


def _prompts(setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    return _constant(replace(setting, shared=False), args)


def _steps(setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    seeds = 2 if args.quick else 12
    cases = [(setting, before, after) for before, after in itertools.pairwise(LOADS)]
    seen: list[Settling] = list(_map(args.processes, _load_step, [(*case, seeds) for case in cases]))
    print(
        "\nLoad step: steps until the rate stays within 5 % of the best fixed chunk's\n\n"
        "| requests | best | steps | rate over best, by step | chunk |\n| --- | --- | --- | --- | --- |"
    )
    for found in seen:
        print(f"| {found.load[0]} to {found.load[1]} | {found.best} | {found.steps} | {_course(found)} |")
    return [asdict(found) for found in seen]


def _load_step(setting: Setting, before: int, after: int, seeds: int) -> Settling:
    return scenarios.load_step(setting, before, after, seeds=seeds)


def _profiles(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    seeds = 2 if args.quick else 8
    profiles = scenarios.wrong_profiles(setting.table)
    cases = [(setting, wrong, batch, seeds) for wrong in profiles.values() for batch in (16, 128)]
    seen: list[Settling] = list(_map(args.processes, _wrong_profile, cases))
    print(
        "\nWrong profile: steps until the rate stays within 5 % of the best fixed chunk's\n\n"
        "| profile | requests | best | steps | rate over best, by step | chunk |\n| --- | --- | --- | --- | --- | --- |"
    )
    names = [name for name in profiles for _ in range(2)]
    for name, found in zip(names, seen, strict=True):
        print(f"| {name} | {found.load[0]} | {found.best} | {found.steps} | {_course(found)} |")
    return {f"{name}, {found.load[0]}": asdict(found) for name, found in zip(names, seen, strict=True)}


def _wrong_profile(setting: Setting, wrong: Any, batch: int, seeds: int) -> Settling:
    return scenarios.wrong_profile(setting, wrong, batch, seeds=seeds)


def _course(found: Settling) -> str:
    places = [step for step in (0, 10, 20, 50, 100, 150, 250) if step < len(found.ratio)]
    ratios = ", ".join(f"{step}: {found.ratio[step]:.2f}" for step in places)
    chunks = ", ".join(f"{step}: {found.chunks[step]:.1f}" for step in places)
    return f"{ratios} | {chunks}"


def _arrivals(setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    count, rounds = (200, 3) if args.quick else (args.requests, 5)
    shapes = (False,) if args.quick else (False, True)
    seen: Iterator[list[Sustained]] = _map(
        args.processes, _loaded, [(setting, bursty, count, rounds) for bursty in shapes]
    )
    print(
        f"\nArrivals: requests a second with {1e3 * TPOT_S:.0f} ms a token or less for 90 % of them; "
        f"{sustained.PROMPT} tokens of prompt, {sustained.ANSWER} of answer\n\n"
        "| arrivals | scheme | requests/s | over AR | over block | tokens/s | TPOT P90, ms | rows | chunk |\n"
        f"|{' --- |' * 9}"
    )
    points: list[Sustained] = []
    for row in seen:
        points += row
        for point in row:
            print(
                f"| {'bursts' if point.bursty else 'Poisson'} | {point.scheme} | {point.rate:.1f} | "
                f"{_over(point, row[0])} | {_over(point, row[1])} | {point.rate * sustained.ANSWER:,.0f} | "
                f"{1e3 * point.tpot_p90_s:.1f} | {point.rows:.0f} | {point.chunk:.1f} |",
                flush=True,
            )
    if args.plots:
        rate = 0.6 * next(point.rate for point in points if point.scheme == "elastic")
        course = sustained.burst(setting, Scheme.elastic(), rate, count=min(count, int(rate * 30)))
        plots.burst(course, args.plots / "burst.png")
    return [asdict(point) for point in points]


def _loaded(setting: Setting, bursty: bool, count: int, rounds: int) -> list[Sustained]:
    return sustained.loaded(setting, bursty=bursty, tpot_s=TPOT_S, count=count, rounds=rounds)


def _served(setting: Setting, args: argparse.Namespace) -> list[dict[str, Any]]:
    if args.from_log:
        requests, source = log.arrivals(args.from_log, setting.recording, seed=setting.seed), args.from_log
    else:
        requests = arrivals(
            setting.recording, args.rate, args.requests, prompt=args.context[0], answer=args.answer,
            bursty=args.bursty, seed=setting.seed,
        )  # fmt: skip
        source = f"{args.rate:g} arrivals a second" + (", in bursts" if args.bursty else "")
    compared = {scheme.name: scheme for scheme in schemes(setting.recording)}
    if unknown := [name for name in args.scheme if name not in compared]:
        raise SettingsError(f"there is no scheme {unknown[0]}, but {', '.join(compared)}", param="scheme")
    cases = [(setting, compared[name], requests, args.rows) for name in args.scheme or compared]
    print(
        f"\n{len(requests)} requests of {source}\n\n"
        "| scheme | first token, ms, median | P90 | TPOT, ms, median | P90 | tokens/s | most rows | rows | took, s |\n"
        + f"|{' --- |' * 9}"
    )
    points = []
    for point in _map(args.processes, _serve, cases):
        points.append(asdict(point))
        times = " | ".join(f"{1e3 * value:,.1f}" for value in (*point.first_token_s, *point.tpot_s))
        print(
            f"| {point.scheme} | {times} | {point.rate:,.0f} | {point.most_rows:,} | {point.rows:,} | "
            f"{point.took_s:.1f} |",
            flush=True,
        )
    return points


def _serve(setting: Setting, scheme: Scheme, requests: list[Arrival], rows: int) -> Served:
    return served(setting, scheme, requests, rows=rows, tpot_s=TPOT_S)


def _over(point: Sustained, base: Sustained) -> str:
    return f"{point.rate / base.rate:.2f}" if base.rate else "-"
