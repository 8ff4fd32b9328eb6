"""``optimus demo train`` and ``optimus demo widen``: flags, and what is printed.

Torch is imported only where a command runs: worker processes of the generator import this module as their main one.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optimus_server.demo import MODELS, plan as plans
from optimus_server.demo.plan import LIKE
from optimus_server.errors import OptimusError
from optimus_server.models.config import load_config

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
    import torch


# Flags of ``widen``, each a field of ``Shape``.
SIZES = {
    "hidden": "hidden size H",
    "layers": "decoder layers",
    "heads": "query heads",
    "kv_heads": "KV heads",
    "ffn": "intermediate size",
    "vocabulary": "entries of embedding and head",
    "context": "max_position_embeddings; default: the model's own, beyond which it was not trained",
}


def add_arguments(parser: argparse.ArgumentParser) -> "Commands":
    """Add ``train`` and ``widen`` to the parser of ``optimus demo``; returns where others may be added."""
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

    wide = commands.add_parser("widen", help="write the demo model in a large geometry, with the same function")
    wide.add_argument("--out", type=Path, required=True, help="the new checkpoint's directory")
    wide.add_argument("--model", type=Path, default=MODELS / "demo", help="the demo model, or demo-sdar")
    wide.add_argument("--like", choices=LIKE, help="geometry and mask id of this model; the next flags change them")
    for name, text in SIZES.items():
        wide.add_argument(f"--{name.replace('_', '-')}", type=_count, metavar="N", help=text)
    wide.add_argument("--mask-token-id", type=int, metavar="ID", help="default: the model's own, SDAR's with --like")
    wide.add_argument(
        "--autoregressive", action="store_true", help="as a Qwen3 checkpoint, which any engine decodes token by token"
    )
    wide.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    wide.add_argument("--seed", type=int, default=0, help="of the weights that do nothing")
    wide.add_argument("--device", default="auto", help="where weights are drawn; auto is cuda where there is a GPU")
    return commands


def run(args: argparse.Namespace) -> int:
    """Run the command that ``add_arguments`` parsed; returns the exit code."""
    try:
        return _train(args) if args.demo_command == "train" else _widen(args)
    except (OptimusError, ValueError) as error:
        print(f"optimus demo: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 10_000:
        raise argparse.ArgumentTypeError(f"must be above 0 and below 10000, not {text}")
    return value


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
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
    """Evaluate what was trained, a few cells only; `optimus bench accuracy` fills the whole table of the model card."""
    from optimus_server.demo.card import HEADER, as_json, line, write_card
    from optimus_server.demo.evaluate import MAX_NEW_TOKENS, evaluate, glance
    from optimus_server.demo.tasks import held_out

    figures = json.loads((args.out / "train.json").read_text())
    rows, max_new, jobs = (4, 32, 1) if args.smoke else (256, MAX_NEW_TOKENS, args.processes)
    for variant, directory in made.items():
        cells = glance(plans.VARIANTS[variant], rows)
        results = []
        report(f"{variant}: {HEADER}")
        questions = held_out(plan.prompts)
        for result in evaluate(directory, cells, questions, device=device, jobs=jobs, max_new=max_new):
            report(f"{variant}: {line(result)}")
            results.append(result)
        write_card(directory, results, figures)
        (args.out / f"{variant}.json").write_text(json.dumps(as_json(results), indent=2) + "\n")


def _widen(args: argparse.Namespace) -> int:
    import torch

    from optimus_server.demo.widen import SDAR_MASK, shape_of, widen

    own = shape_of(load_config(args.model))
    target = replace(LIKE[args.like], context=own.context) if args.like else own
    target = replace(target, **{name: size for name in SIZES if (size := getattr(args, name)) is not None})
    mask = SDAR_MASK if args.mask_token_id is None and args.like else args.mask_token_id
    started = time.perf_counter()
    made = widen(
        args.model,
        args.out,
        target,
        mask_token_id=mask,
        autoregressive=args.autoregressive,
        seed=args.seed,
        device=str(_device(args.device)),
        dtype=getattr(torch, args.dtype),
        report=print,
    )
    print(f"{made}: {time.perf_counter() - started:.0f} s")
    return 0


def main() -> int:
    """``python -m optimus_server.demo.command``: the same command without the rest of Optimus."""
    parser = argparse.ArgumentParser(prog="optimus demo")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
