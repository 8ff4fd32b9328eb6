"""``optimus bench accuracy``: what chunking costs and saves on a checkpoint, policy x chunk size.

Answers are decoded greedily through the engine and judged; ``demo.score`` says what figures and intervals mean. Under
a fixed chunk size they do not depend on ``--concurrency``: a request decodes alike alone and in any batch.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from optimus_server.bench.flags import chunk_size, machine, positive
from optimus_server.bench.questions import choose, speaks_demo
from optimus_server.bench.workload import add_lengths
from optimus_server.demo import MODELS
from optimus_server.demo.card import as_json, task_table, write_card
from optimus_server.demo.evaluate import MAX_NEW_TOKENS, Result, evaluate, grid
from optimus_server.engine.request import POLICIES
from optimus_server.errors import OptimusError, SettingsError
from optimus_server.models.config import load_config
from optimus_server.text.tokenizer import Tokenizer

HEADER = "| policy | concurrency | accuracy | 95 % interval | TPF | 95 % interval | computed/token | 95 % interval |"
RULE = "| --- |" + " --- |" * 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench accuracy``."""
    parser.add_argument("--model", type=Path, default=MODELS / "demo", help="checkpoint directory")
    parser.add_argument("--tasks", type=Path, help="task file, JSON lines; default: the demo model's held-out tasks")
    parser.add_argument("--task", nargs="+", default=(), metavar="NAME", help="questions of these tasks only")
    parser.add_argument("--prompts", type=positive, help="questions to ask (default: the whole file, or 2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the demo model's held-out tasks")
    add_lengths(parser)
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=(), help="only these policies")
    parser.add_argument(
        "--chunk",
        nargs="+",
        type=chunk_size,
        default=(),
        help="only these sizes; auto is the controller's choice",
    )
    parser.add_argument("--concurrency", nargs="+", type=positive, default=[64], help="requests decoded together")
    parser.add_argument("--max-new-tokens", type=positive, default=MAX_NEW_TOKENS, help="tokens an answer may have")
    parser.add_argument("--processes", type=positive, default=1, help="lines of the table measured at the same time")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    parser.add_argument("--card", type=Path, help="of a demo model: its train.json, to write the model card anew")
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers of the first line")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 2 if checkpoint, tasks or flags cannot be used."""
    try:
        results = _measure(args)
    except (OptimusError, OSError) as error:
        print(f"optimus bench accuracy: {error}", file=sys.stderr)
        return 2
    if len(results[0].tasks) > 1:
        print("\n" + task_table(results))
    if args.wrong:
        for asked, wanted, given in results[0].wrong:
            print(json.dumps({"asked": asked, "wanted": wanted, "given": given}))
    if args.json:
        report = {
            "machine": machine(args.device),
            "model": args.model.name,
            "tasks": str(args.tasks or f"the demo model's, seed {args.seed}"),
            "prompts": len(results[0].outcomes),
            "cells": as_json(results),
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.card:
        write_card(args.model, results, json.loads(args.card.read_text()))
    return 0


def _measure(args: argparse.Namespace) -> list[Result]:
    config = load_config(args.model)
    if args.tasks is None and not speaks_demo(Tokenizer.load(args.model)):
        raise SettingsError(f"{args.model} is not the demo model: name a task file with --tasks", param="tasks")
    if too_large := [chunk for chunk in args.chunk if (chunk or 1) > 2 * config.block_size]:
        limit = 2 * config.block_size
        raise SettingsError(f"--chunk must be <= {limit}, twice the block size. Given: {too_large[0]}", param="chunk")
    questions = choose(
        args.tasks, args.task, args.prompts, args.seed, context=args.context, answer=args.answer
    )  # fmt: skip
    cells = grid(config, args.policy, args.chunk, args.concurrency)
    print(f"{args.model.name}, {len(questions)} questions, greedy, threshold {config.threshold}\n\n{HEADER}\n{RULE}")
    results = []
    for result in evaluate(
        args.model, cells, questions, device=args.device, jobs=args.processes, max_new=args.max_new_tokens
    ):
        print(line(result), flush=True)
        results.append(result)
    return results


def line(result: Result) -> str:
    """One row of the table; accuracy is over the scored questions, the rest over all."""
    scored, everything = result.scored, result.everything
    accuracy = _cells(scored.accuracy, scored.accuracy_interval(), 4) if scored.prompts else "- | -"
    return (
        f"| {result.cell} | {result.cell.concurrency} | {accuracy} | "
        f"{_cells(everything.tpf, everything.tpf_interval(), 2)} | "
        f"{_cells(everything.computed_per_token, everything.computed_interval(), 2)} |"
    )


def _cells(value: float, interval: tuple[float, float], digits: int) -> str:
    short = min(digits, 3)
    return f"{value:.{digits}f} | {interval[0]:.{short}f} to {interval[1]:.{short}f}"
