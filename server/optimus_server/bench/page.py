"""``optimus bench page``: the results page of the README, from one command on one GPU.

It makes the benchmark checkpoint (``optimus demo widen``), lets ``bench step`` and ``bench decode`` measure it, each in
a process of its own, and writes their tables and a plot between two marks of a document. What they refuse to report
is missing there, too.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimus_server.bench.flags import positive
from optimus_server.bench.plots import need_matplotlib
from optimus_server.demo import MODELS
from optimus_server.demo.plan import LIKE
from optimus_server.errors import SettingsError

BEGIN, END = "<!-- results -->", "<!-- /results -->"
SCHEMES = ("1", "4", "8", "16", "32", "block", "auto")
NAMES = {"block": "block 32", "auto": "elastic", "1": "AR (chunk 1)"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench page``."""
    parser.add_argument("--work", type=Path, required=True, help="directory for checkpoints and figures; kept")
    parser.add_argument("--document", type=Path, default=Path("README.md"), help=f"has the marks {BEGIN} and {END}")
    parser.add_argument("--image", type=Path, default=Path(".images/throughput.png"), help="the plot")
    parser.add_argument("--like", choices=[*LIKE, "demo"], default="sdar-8b", help="geometry; demo is not widened")
    parser.add_argument("--variant", nargs="+", choices=["demo", "demo-sdar"], default=["demo", "demo-sdar"])
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--chunk", nargs="+", choices=[*SCHEMES, "2", "64"], default=list(SCHEMES))
    parser.add_argument("--positions", type=positive, nargs="+", default=[32, 256, 512, 2048])
    parser.add_argument("--context", type=positive, nargs="+", default=[512, 1900])
    parser.add_argument("--rounds", type=positive, default=1)
    parser.add_argument("--task", nargs="+", help="only these tasks of the demo model")


def run(args: argparse.Namespace) -> int:
    """Measure what has not been measured into ``--work`` yet, and write the page; 0, or 1 if nothing was measured."""
    need_matplotlib()
    text = args.document.read_text()
    if BEGIN not in text or END not in text:
        raise SettingsError(f"{args.document} has no lines {BEGIN} and {END}", param="document")
    args.work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    found = {variant: _measure(args, variant) for variant in args.variant}
    if not any(decode for _, decode in found.values()):
        print("optimus bench page: no figures", file=sys.stderr)
        return 1
    draw({variant: decode for variant, (_, decode) in found.items() if decode}, args.image)
    page = _page(found, args, time.perf_counter() - began)
    head, rest = text.split(BEGIN, 1)
    args.document.write_text(f"{head}{BEGIN}\n{page}{END}{rest.split(END, 1)[1]}")
    print(page)
    return 0


def _measure(args: argparse.Namespace, variant: str) -> tuple[Any, Any]:
    """Reports of ``bench step`` and ``bench decode``; None for one that failed."""
    source = model = MODELS / variant
    if args.like != "demo":
        model = args.work / f"{variant}-{args.like}"
        if not model.exists():
            _optimus("demo", "widen", "--out", model, "--like", args.like, "--model", source)
    grid = ["--positions", *args.positions, "--context", *args.context]
    step = _report(args.work / f"{variant}-step.json", ["bench", "step", "--model", model, *grid])
    # Without shifted logits a row of one position predicts nothing new.
    chunks = [chunk for chunk in args.chunk if variant == "demo" or chunk != "1"]
    tasks = ["--task", *args.task] if args.task else []
    grid = ["--batch", *args.batch, "--chunk", *chunks, "--rounds", args.rounds, *tasks]
    decode = _report(args.work / f"{variant}-decode.json", ["bench", "decode", "--model", model, *grid])
    return step, decode


def _report(path: Path, command: Sequence[object]) -> Any:
    if not path.exists():
        _optimus(*command, "--json", path)
    return json.loads(path.read_text()) if path.exists() else None


def _optimus(*command: object) -> None:
    print("optimus", *command, file=sys.stderr, flush=True)
    code = "import sys; from optimus_server.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *map(str, command)], check=False, stdout=sys.stderr)


def _page(found: dict[str, tuple[Any, Any]], args: argparse.Namespace, seconds: float) -> str:
    decode = next(decode for _, decode in found.values() if decode)
    facts = decode["machine"]
    chosen = [f"--{name} {' '.join(map(str, getattr(args, name)))}" for name in ("variant", "batch", "chunk")]
    tasks = [f"--task {' '.join(args.task)}"] if args.task else []
    line = " ".join(["optimus bench page --work DIR --like", args.like, *chosen, *tasks])
    parts = [
        f"One {facts['device']}, torch {facts['torch']}, Optimus {facts['optimus']}, {facts['date']}; bf16 on a GPU, "
        f"greedy, threshold 0.9; `{line}`, {seconds:.0f} s.\n",
        f"\n![Tokens a second over the batch]({args.image})\n",
    ]
    for variant, (step, decoded) in found.items():
        title = f"{variant} as {args.like}" if args.like != "demo" else variant
        if decoded:
            parts.append(f"\nTokens a second of a full batch, {title}; in brackets TPF:\n\n{_decode_table(decoded)}")
        if step:
            parts.append(f"\nOne step, {title}, rows of 8 positions:\n\n{_step_table(step)}")
    return "".join(parts) + "\n"


def _decode_table(report: Any) -> str:
    cells = {(cell["batch"], str(cell["chunk"])): cell for cell in report["cells"]}
    chunks, batches = (list(dict.fromkeys(key[i] for key in cells)) for i in (1, 0))
    lines = [
        "| batch | " + " | ".join(_name(chunk) for chunk in chunks) + " | elastic / best fixed | waiting for host |"
    ]
    lines.append("| --- " * (len(chunks) + 3) + "|")
    for batch in batches:
        rates = {chunk: cells[batch, chunk]["tokens_per_second"] for chunk in chunks}
        fixed = [rate for chunk, rate in rates.items() if chunk != "auto"]
        ratio = f"{rates['auto'] / max(fixed):.2f}" if "auto" in rates and fixed else ""
        shown = [f"{rates[chunk]:,.0f} ({cells[batch, chunk]['tpf']:.1f})" for chunk in chunks]
        host = f"{max(cells[batch, chunk]['host_share'] for chunk in chunks):.0%}"
        lines.append(f"| {batch} | " + " | ".join([*shown, ratio, f"up to {host}"]) + " |")
    return "\n".join(lines) + "\n"


def _step_table(report: Any) -> str:
    head = "| positions | context | step, ms | floor: products, ms | KV, ms | step / floor | waiting for host |\n"
    return head + "| --- " * 7 + "|\n" + "".join(
        f"| {cell['rows'] * cell['width']} | {cell['context']} | {cell['step_ms']:.2f} | {cell['dense_ms']:.2f} "
        f"| {cell['kv_ms']:.2f} | {cell['ratio']:.2f} | {cell['host_share']:.0%} |\n"
        for cell in report["cells"]
    )  # fmt: skip


def _name(chunk: object) -> str:
    return NAMES.get(str(chunk), f"chunk {chunk}")


def draw(reports: dict[str, Any], path: Path) -> None:
    """Tokens a second over the batch, one panel per variant, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(reports), 4.5), layout="constrained")
    panels = figure.subplots(1, len(reports), squeeze=False)[0]
    for panel, (variant, report) in zip(panels, reports.items(), strict=True):
        for chunk in dict.fromkeys(cell["chunk"] for cell in report["cells"]):
            mine = [cell for cell in report["cells"] if cell["chunk"] == chunk]
            style = {"auto": ("C0", "-", 3.0), "block": ("C1", "--", 2.0), 1: ("C3", "--", 2.0)}
            colour, line, width = style.get(chunk, (None, "-", 1.0))
            batches, rates = [cell["batch"] for cell in mine], [cell["tokens_per_second"] for cell in mine]
            panel.plot(batches, rates, line, marker=".", color=colour, linewidth=width, label=_name(chunk))
        panel.set(title=variant, xlabel="requests at once", ylabel="tokens a second", xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100)
