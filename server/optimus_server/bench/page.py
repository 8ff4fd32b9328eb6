"""``optimus bench page``: the results page of the README, from one command on one GPU.

It makes the benchmark checkpoints (``optimus demo widen``), lets ``bench decode``, ``bench step`` and ``bench serve``
measure them, each in a process of its own, and writes their tables and a plot between two marks of a document. What
they refuse to report is missing there, too. All figures are kept in ``--work`` as they are taken: a run that was
interrupted, or whose time was over, is continued by the same command, and figures of several runs make one page
(``--found``).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimus_server.bench.flags import not_negative, positive
from optimus_server.bench.panels import draw
from optimus_server.bench.plots import need_matplotlib
from optimus_server.bench.sections import CLIENTS, SECTIONS, SERVED, VARIANTS, Found, chunks_of, find
from optimus_server.bench.served import OPTIMUS, served
from optimus_server.bench.tables import MISSING, tables
from optimus_server.bench.workload import WORKLOADS
from optimus_server.demo import MODELS
from optimus_server.demo.plan import LIKE
from optimus_server.errors import SettingsError

BEGIN, END = "<!-- results -->", "<!-- /results -->"
# Positions that the benchmark checkpoints allow: chats of 2,000 tokens with answers of 500.
POSITIONS = 4096
# Chunk sizes at a batch that a section does not have.
FEW = "auto,block,8,1"
# How the time is shared out among what is still to be measured.
SHARES = {"decode": 4.0, "step": 0.5, "serve": 1.5}
# What a process may overrun its share by, to end a cell; then it is killed.
GRACE_S = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench page``."""
    add = parser.add_argument
    add("--work", type=Path, required=True, help="directory of the figures; kept")
    add("--checkpoints", type=Path, help="directory of the benchmark checkpoints, 16 GB each; kept (default: --work)")
    add("--found", type=Path, nargs="+", default=[], help="directories of figures (*.json) of earlier runs")
    add("--document", type=Path, default=Path("README.md"), help=f"has the marks {BEGIN} and {END}")
    add("--image", type=Path, default=Path(".images/throughput.png"), help="the plot")
    add("--no-measure", action="store_true", help="make the page of what there is")
    add("--like", choices=[*LIKE, "demo"], default="sdar-8b", help="geometry; demo is the demo model's own")
    add("--variant", nargs="+", choices=list(VARIANTS), default=["demo", "demo-sdar"], help="demo-ar: the Qwen3 twin")
    add("--section", nargs="+", choices=[*SECTIONS, "step"], default=[*SECTIONS, "step"])
    add("--serve", action="store_true", help="measure a server of the last variant that diffuses over HTTP, too")
    add("--against", type=Path, nargs="+", default=[], help="reports of `bench serve` of other servers, same questions")
    add("--batch", type=positive, nargs="+", help="requests at once in every section (default: each section's)")
    add("--chunk", nargs="+", help="chunk sizes in every section (default: each section's)")
    add("--positions", type=positive, nargs="+", default=[32, 256, 512, 2048], help="of a step")
    add("--context", type=positive, nargs="+", default=[512, 1900], help="of a step")
    add("--rounds", type=positive, default=1)
    add("--warm-up", type=positive, default=100, help="steps before a cell is counted")
    add("--learn", type=not_negative, default=16000, help="rows that the controller, where it chooses, has seen before")
    add("--answers", type=positive, default=48, help="that a cell counts at least, if there is time")
    add("--seconds", type=float, default=1.5, help="that a cell counts at least")
    add("--most", type=float, default=4.0, help="seconds that a cell counts at most")
    add("--minutes", type=float, default=15.0, help="for all; what does not fit is left out, and measured next time")


def run(args: argparse.Namespace) -> int:
    """Measure what has not been measured into ``--work`` yet, and write the page; 0, or 1 if nothing was measured."""
    need_matplotlib()
    text = args.document.read_text()
    if BEGIN not in text or END not in text:
        raise SettingsError(f"{args.document} has no lines {BEGIN} and {END}", param="document")
    against = [_report(path) for path in args.against]
    args.work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if not args.no_measure:
        _measure(args, began)
    places = [args.work, *args.found]
    found = {variant: figures for variant in args.variant if (figures := find(places, variant))}
    if not found:
        print("optimus bench page: no figures", file=sys.stderr)
        return 1
    plot = f"![Tokens a second over the load]({args.image})\n" if draw(found, args.image, against) else ""
    page = _page(found, args, plot, against)
    head, rest = text.split(BEGIN, 1)
    args.document.write_text(f"{head}{BEGIN}\n{page}{END}{rest.split(END, 1)[1]}")
    print(page)
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


def _report(path: Path) -> dict[str, Any]:
    """What `bench serve` has written.

    Raises:
        SettingsError: it is something else.
    """
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"--against {path} cannot be read: {error}", param="against") from error
    if not (isinstance(report, dict) and {"label", "points"} <= report.keys()):
        raise SettingsError(f"--against {path} is no report of `optimus bench serve`", param="against")
    return report


def _measure(args: argparse.Namespace, began: float) -> None:
    """Run what is to be run, each within its share of the time that is left."""
    sections = [section for section in args.section if section != "step"]
    jobs = [("decode", variant) for variant in args.variant if sections]
    jobs += [("step", args.variant[0])] if "step" in args.section else []
    diffusing = [variant for variant in args.variant if variant != "demo-ar"]
    jobs += [("serve", variant) for variant in diffusing[-1:] if args.serve]
    for number, (job, variant) in enumerate(jobs):
        found = find([args.work, *args.found], variant)
        if job == "decode" and not (grids := _missing(args, variant, found)):
            continue
        if (job == "step" and found.step) or (job == "serve" and found.serve):
            continue
        model = _checkpoint(args, variant)
        left = 60 * args.minutes - (time.perf_counter() - began)
        if left <= 0:
            print(f"optimus bench page: {args.minutes:g} minutes are over", file=sys.stderr)
            return
        share = left * SHARES[job] / sum(SHARES[other] for other, _ in jobs[number:])
        path = args.work / f"{variant}-{job}.json"
        if job == "decode":
            _optimus(
                share, "bench", "decode", "--model", model, *grids, "--rounds", args.rounds, "--warm-up", args.warm_up,
                "--learn", args.learn, "--answers", args.answers, "--seconds", args.seconds, "--most", args.most,
                "--budget", round(share), "--json", path, "--resume",
            )  # fmt: skip
        elif job == "step":
            grid = ["--positions", *args.positions, "--context", *args.context]
            _optimus(share, "bench", "step", "--model", model, *grid, "--json", path)
        else:
            _serve(args, model, path, share)


def _missing(args: argparse.Namespace, variant: str, found: Found) -> list[object]:
    """Flags ``--grid`` for the cells that nobody has measured yet."""
    grids: list[object] = []
    for section in args.section:
        if section not in SECTIONS:
            continue
        cells = SECTIONS[section].cells
        for batch in args.batch or cells:
            known = found.decode.get(section, {})
            wanted = args.chunk or cells.get(batch, FEW).split(",")
            chunks = [chunk for chunk in chunks_of(variant, wanted) if (batch, chunk) not in known]
            grids += ["--grid", section, batch, ",".join(chunks)] if chunks else []
    return grids


def _checkpoint(args: argparse.Namespace, variant: str) -> Path:
    model: Path = (args.checkpoints or args.work) / f"{variant}-{args.like}"
    if not (model / "config.json").exists():  # the last file that is written
        source, flags = VARIANTS[variant]
        like = [] if args.like == "demo" else ["--like", args.like]
        _optimus(
            600.0, "demo", "widen", "--out", model, "--model", MODELS / source, "--context", POSITIONS, *like, *flags
        )
    return model


def _serve(args: argparse.Namespace, model: Path, path: Path, share: float) -> None:
    loads, asked = args.batch or CLIENTS, WORKLOADS[SERVED]
    flags = [
        "--no-playground", "--no-prefix-cache", "--log-db", "off",
        "--max-batch-size", str(max(loads)), "--max-concurrent-requests", str(2 * max(loads)),
    ]  # fmt: skip
    print("optimus serve", model, *flags, file=sys.stderr, flush=True)
    try:
        with served(model, flags, path.with_suffix("")) as url:
            _optimus(
                share, "bench", "serve", "--url", url, "--concurrency", *loads, "--context", asked.context,
                "--answer", asked.answer, "--task", *asked.tasks, "--warm-up", 16, "--json", path,
            )  # fmt: skip
    except SettingsError as error:
        print(f"optimus bench page: {error.message}", file=sys.stderr)


def _optimus(seconds: float, *command: object) -> None:
    print("optimus", *command, file=sys.stderr, flush=True)
    try:
        subprocess.run([*OPTIMUS, *map(str, command)], check=False, stdout=sys.stderr, timeout=seconds + GRACE_S)
    except subprocess.TimeoutExpired:
        print(f"optimus bench page: killed after {seconds + GRACE_S:.0f} s", file=sys.stderr, flush=True)


def _page(found: dict[str, Found], args: argparse.Namespace, image: str, against: Sequence[Mapping[str, Any]]) -> str:
    machines = [machine for figures in found.values() for machine in figures.machines]
    facts = {
        f"One {m['device']}, torch {m['torch']}, Optimus {m['optimus']}, {m['date']}": None for m in machines
    }  # fmt: skip
    line = f"optimus bench page --work DIR --like {args.like} --variant {' '.join(found)}"
    line += " --serve" if any(figures.serve for figures in found.values()) else ""
    line += " --against" + " FILE" * len(against) if against else ""
    return (
        f"{'; '.join(facts)}. bf16 on a GPU, greedy, threshold 0.9; `{line}`. {MISSING}: not measured.\n\n"
        f"{image}{tables(found, args.like, against)}"
    )
