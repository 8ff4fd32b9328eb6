"""``optimus demo train`` and ``optimus demo eval``: flags, and what is printed.

Torch is imported only where a command runs: worker processes of the generator import this module as their main one.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from optimus_server.demo import MODELS, plan as plans
from optimus_server.demo.tasks import TASKS
from optimus_server.engine.request import POLICIES, Policy
from optimus_server.errors import OptimusError
from optimus_server.models.config import load_config

if TYPE_CHECKING:
    import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``train`` and ``eval`` to the parser of ``optimus demo``."""
    commands = parser.add_subparsers(dest="demo_command", required=True)
    cores = max(1, (os.cpu_count() or 2) - 1)

    new = commands.add_parser("train", help="train the demo model from nothing (one GPU, about 11 minutes)")
    new.add_argument("--out", type=Path, default=Path("demo-model"), help="directory for checkpoints and results")
    new.add_argument(
        "--variant",
        choices=list(plans.VARIANTS),
        default="demo-sdar",
        help="the last one to train; demo-sdar goes on from demo, so that makes both",
    )
    new.add_argument(
        "--minutes", type=_positive, default=plans.MINUTES, help="training time on an H100: scales the steps"
    )
    new.add_argument("--seed", type=int, default=0)
    new.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    new.add_argument("--smoke", action="store_true", help="a tiny run of every part, in seconds, on a CPU")
    new.add_argument("--processes", type=int, default=cores, help="processes that generate text and evaluate")
    new.add_argument("--device", default="auto", help="auto is cuda where there is a GPU")
    new.add_argument("--no-eval", action="store_true", help="stop after the export")

    test = commands.add_parser("eval", help="measure a demo checkpoint: policy x chunk size")
    test.add_argument("--model", type=Path, default=MODELS / "demo")
    test.add_argument("--prompts", type=int, default=2000)
    test.add_argument("--policy", choices=POLICIES, help="only this policy")
    test.add_argument(
        "--chunk",
        type=int,
        nargs="+",
        help="only these chunk sizes (of the policy `chunk` unless --policy says otherwise)",
    )
    test.add_argument("--task", nargs="+", choices=TASKS, default=(), help="prompts of these tasks only")
    test.add_argument("--concurrency", type=int, default=64, help="requests that the engine runs at once")
    test.add_argument("--seed", type=int, default=1)
    test.add_argument("--processes", type=int, default=1, help="cells measured at the same time")
    test.add_argument("--device", default="auto", help="auto is cuda where there is a GPU")
    test.add_argument("--json", type=Path, help="write all figures to this file")
    test.add_argument("--card", type=Path, help="train.json of the run: write the model card, too")
    test.add_argument("--wrong", action="store_true", help="print the wrong answers of the first line")


def run(args: argparse.Namespace) -> int:
    """Run the command that ``add_arguments`` parsed; returns the exit code."""
    try:
        return _train(args) if args.demo_command == "train" else _eval(args)
    except (OptimusError, ValueError) as error:
        print(f"optimus demo: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 10000, not {text}")
    return value


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _train(args: argparse.Namespace) -> int:
    from optimus_server.demo.train import train

    plan = plans.smoke() if args.smoke else plans.full(args.minutes)
    device = _device("cpu" if args.smoke else args.device)
    if device.type == "cpu" and not args.smoke:
        raise ValueError("training needs a GPU (or --smoke for a tiny run)")
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (args.out / "train.log").open("a") as log:

        def report(text: str) -> None:
            stamped = f"[{time.perf_counter() - started:6.1f} s] {text}"
            print(stamped, flush=True)
            print(stamped, file=log, flush=True)

        made = train(
            plan,
            args.out,
            args.variant,
            seed=args.seed,
            device=device,
            processes=1 if args.smoke else args.processes,
            resume=args.resume,
            report=report,
        )
        if not args.no_eval:
            _measure(args, plan, made, str(device), report)
        report("done")
    return 0


def _measure(
    args: argparse.Namespace, plan: plans.Plan, made: dict[str, Path], device: str, report: Callable[[str], None]
) -> None:
    """Evaluate what was trained, a few cells only; `optimus demo eval` fills the whole table of the model card."""
    from optimus_server.demo.card import HEADER, as_json, line, write_card
    from optimus_server.demo.evaluate import Cell, evaluate, glance

    figures = json.loads((args.out / "train.json").read_text())
    for variant, directory in made.items():
        cells = [Cell("block", 32), Cell("chunk", 8)] if args.smoke else glance(plans.VARIANTS[variant])
        options = {"concurrency": 4, "max_new": 32} if args.smoke else {"concurrency": 256, "jobs": args.processes}
        results = []
        report(f"{variant}: {HEADER}")
        for result in evaluate(directory, cells, plan.prompts, device=device, **options):
            report(f"{variant}: {line(result)}")
            results.append(result)
        write_card(directory, results, figures)
        (args.out / f"{variant}.json").write_text(json.dumps(as_json(results), indent=2) + "\n")


def _eval(args: argparse.Namespace) -> int:
    from optimus_server.demo.card import HEADER, RULE, as_json, line, task_table, write_card
    from optimus_server.demo.evaluate import Cell, Result, evaluate, grid

    cells = grid(load_config(args.model).logit_shift)
    if args.chunk:
        named: list[Policy] = [args.policy] if args.policy else ["chunk"]
        cells = [Cell(policy, size) for policy in named for size in args.chunk]
    elif args.policy:
        cells = [c for c in cells if c.policy == args.policy] or [Cell(args.policy, 32)]
    results: list[Result] = []
    print(f"{HEADER}\n{RULE}", flush=True)
    for result in evaluate(
        args.model,
        cells,
        args.prompts,
        seed=args.seed,
        concurrency=args.concurrency,
        device=str(_device(args.device)),
        jobs=args.processes,
        tasks=args.task,
    ):
        print(line(result), flush=True)
        results.append(result)
    print("\n" + task_table(results))
    if args.wrong:
        for prompt, wanted, given in results[0].wrong:
            print(json.dumps({"prompt": prompt, "wanted": wanted, "given": given}))
    if args.json:
        args.json.write_text(json.dumps(as_json(results), indent=2) + "\n")
    if args.card:
        write_card(args.model, results, json.loads(args.card.read_text()))
    return 0


def main() -> int:
    """``python -m optimus_server.demo.command``: the same command without the rest of Optimus."""
    parser = argparse.ArgumentParser(prog="optimus demo")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
