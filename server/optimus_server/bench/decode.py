"""``optimus bench decode``: the engine alone, without server or network, over batch x chunk size.

A closed loop (``closed``) keeps ``batch`` requests running and counts steps of a full batch only, once the engine is
warm. The answers that end are judged, and a cell whose answers are wrong has no figures: a fast wrong answer is no
result. All chunk sizes are asked the same questions. Rounds go over the whole grid again, and each cell's figures come
from its median round, so that a busy machine disturbs all cells alike.

Before its first window each cell has ``--warm-up`` steps: until then the mix of requests is not yet what the chunk size
makes it, since who decodes faster is there for a shorter time. Elastic decoding has ``--learn`` rows more, as a server
has seen other requests before; a cell keeps its engine, and what was learned, over all rounds.
"""

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from optimus_server.bench.asked import Asked
from optimus_server.bench.closed import Round, Window, measure
from optimus_server.bench.flags import machine, not_negative, positive
from optimus_server.bench.workload import WORKLOADS, Workload, add_workload, workload_of
from optimus_server.demo import MODELS
from optimus_server.engine.elastic.latency import Profile
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.profile import measure as measure_profile
from optimus_server.engine.request import POLICIES, Policy
from optimus_server.engine.runner import Runner
from optimus_server.errors import OptimusError, SettingsError
from optimus_server.models.loader import LoadedModel, load_model
from optimus_server.settings import default_threads
from optimus_server.text.tokenizer import Tokenizer

PAGE = 32
# Positions of prompt in a step, as `optimus serve` has them.
PREFILL = {"cpu": 512, "cuda": 2048}
# Steps before the windows after the first, in which all first prompts are computed; and steps that the controller
# learns in at most: with few requests at a time it would take minutes.
FIRST_STEPS, LONGEST_LESSON = 8, 1500

Key = tuple[str, int, int | str]
"""A cell: its workload's name, batch, and a chunk size, ``auto`` (the controller's) or ``block`` (the policy)."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of one workload."""

    name: str
    workload: Workload
    batches: Sequence[int]
    chunks: Sequence[int | str]

    def cells(self) -> Iterator[Key]:
        return ((self.name, batch, chunk) for batch in self.batches for chunk in self.chunks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench decode``."""
    add = parser.add_argument
    add("--model", type=Path, default=MODELS / "demo", help="a checkpoint that answers the demo's tasks")
    add("--batch", type=positive, nargs="+", default=[1, 4, 16], help="requests that decode together")
    add(
        "--chunk", type=_scheme, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, "auto", "block"],
        help="chunk sizes; auto: the controller's choice, with a profile measured first; block: whole blocks, always",
    )  # fmt: skip
    add("--policy", choices=POLICIES, default="chunk")
    add_workload(parser)
    add(
        "--grid", nargs=3, action="append", metavar=("WORKLOAD", "BATCHES", "CHUNKS"), type=str, default=[],
        help=f"instead of the flags before, once or more: {', '.join(WORKLOADS)}; lists with commas",
    )  # fmt: skip
    add("--rounds", type=positive, default=3, help="passes over the grid; figures are of the median one")
    add("--warm-up", type=positive, default=100, help="steps before a cell's first window, not counted")
    add("--learn", type=not_negative, default=6400, help="rows that the controller, where it chooses, has seen before")
    add("--answers", type=positive, default=24, help="that end while it is counted, at least, and 3 a request")
    add("--seconds", type=float, default=1.0, help="that are counted at least")
    add("--most", type=float, default=60.0, help="seconds that are counted at most, however few answers ended")
    add("--budget", type=float, help="seconds after which no other cell is begun")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=positive, default=default_threads(), help="CPU threads")
    add("--json", type=Path, help="write all figures to this file, too, after each cell")
    add("--resume", action="store_true", help="keep the cells that the file has, and measure the others")


def _scheme(text: str) -> int | str:
    return text if text in ("auto", "block") else positive(text)


def grids_of(args: argparse.Namespace) -> list[Grid]:
    """What is to be measured.

    Raises:
        ValueError: a list of ``--grid`` is none, or a workload is unknown.
    """
    if not args.grid:
        workload = workload_of(args)
        return [Grid(str(workload), workload, args.batch, args.chunk)]
    found = []
    for name, batches, chunks in args.grid:
        if name not in WORKLOADS:
            raise ValueError(f"--grid: there is no workload {name}, only {', '.join(WORKLOADS)}")
        lists = [positive(b) for b in batches.split(",")], [_scheme(c) for c in chunks.split(",")]
        found.append(Grid(name, WORKLOADS[name], *lists))
    return found


def run(args: argparse.Namespace) -> int:
    """Measure, check, print; 0, or 1 if a cell has no figures, or 2 if nothing can be measured."""
    began = time.perf_counter()
    torch.set_num_threads(args.threads)
    try:
        grids = grids_of(args)
        kept = _kept(args)
        model = load_model(args.model, device=args.device)
        tokenizer = Tokenizer.load(args.model)
    except (OptimusError, OSError, ValueError, argparse.ArgumentTypeError) as error:
        print(f"optimus bench decode: {error}", file=sys.stderr)
        return 2
    bench = Bench(model, tokenizer, grids, args, kept)
    good = bench.run(began)
    bench.print()
    return 0 if good else 1


def _kept(args: argparse.Namespace) -> dict[Key, dict[str, Any]]:
    """Cells that need not be measured."""
    if not (args.resume and args.json and args.json.exists()):
        return {}
    cells = json.loads(args.json.read_text())["cells"]
    return {(cell["workload"], cell["batch"], cell["chunk"]): cell for cell in cells}


class Bench:
    """A model, what is asked, and the figures so far."""

    def __init__(
        self,
        model: LoadedModel,
        tokenizer: Tokenizer,
        grids: Sequence[Grid],
        args: argparse.Namespace,
        kept: dict[Key, dict[str, Any]],
    ) -> None:
        self.args, self.tokenizer, self.grids = args, tokenizer, grids
        self.cells = kept
        self.todo = [key for grid in grids for key in grid.cells() if key not in kept]
        self.rounds: dict[Key, list[Round]] = {key: [] for key in self.todo}
        self.engines: dict[Key, Engine] = {}
        self.facts = machine(args.device) | {
            "model": str(args.model.name),
            "policy": args.policy,
            "rounds": args.rounds,
        }
        self.asked = {name: self._ask(name) for name in dict.fromkeys(grid.name for grid in grids)}
        self._fits(model)
        batches = [batch for _, batch, _ in self.todo] or [1]
        self.prefill = PREFILL[torch.device(args.device).type]
        largest = 2 * max(batches) * model.config.block_size + self.prefill
        self.runner = Runner(model, pages=self._pages(model), page_size=PAGE)
        self.profile = Profile.unmeasured()
        if self.todo and self.runner.device.type == "cuda":
            self.runner.record(max_rows=max(batches), max_positions=largest)
        # On a GPU whatever the chunk size: it also says where room in a step costs nothing.
        if any(chunk == "auto" or self.runner.ahead for _, _, chunk in self.todo):
            self.profile = measure_profile(self.runner, max_positions=largest)

    def _fits(self, model: LoadedModel) -> None:
        """Raise SettingsError if questions and answers need more positions than the checkpoint allows."""
        block, longest = model.config.block_size, model.config.max_position_embeddings
        for name, asked in self.asked.items():
            needed = max(-(-(len(one.prompt) + len(one.answer) + 1) // block) * block for one in asked)
            if needed > longest:
                raise SettingsError(f"{name} needs {needed} positions, {self.args.model.name} allows {longest}")

    def _ask(self, name: str) -> list[Asked]:
        """As many questions of a workload as its largest batch is asked."""
        grids = [grid for grid in self.grids if grid.name == name]
        count = self._count(max(batch for grid in grids for batch in grid.batches))
        questions = islice(grids[0].workload.questions(self.tokenizer), count)
        return [Asked.of(question, self.tokenizer) for question in questions]

    def _count(self, batch: int) -> int:
        """Different questions that are asked of a batch."""
        return max(int(self.args.answers), 4 * batch)

    def _pages(self, model: LoadedModel) -> int:
        """KV memory for the longest requests that can meet in a batch."""
        block, longest = model.config.block_size, model.config.max_position_embeddings
        most = 1
        for grid in self.grids:
            batch = max(grid.batches)
            sizes = sorted((len(one.ids) + one.room(longest) for one in self.asked[grid.name]), reverse=True)
            most = max(most, sum(-(-(size + 2 * block) // PAGE) + 1 for size in sizes[:batch]))
        return max(most, -(-longest // PAGE))

    def run(self, began: float) -> bool:
        """Whether every cell that was begun has figures."""
        # As in the server: what is there now stays, and need not be looked through again and again.
        gc.collect()
        gc.freeze()
        try:
            return self._all(began)
        finally:
            gc.unfreeze()

    def _all(self, began: float) -> bool:
        good, budget = True, self.args.budget
        for number in range(self.args.rounds):
            for place, key in enumerate(self.todo):
                if budget is not None and time.perf_counter() - began > budget:
                    left = len(self.todo) - place
                    print(f"round {number + 1}: {budget:g} s are over, {left} cells are left out", file=sys.stderr)
                    return good
                good = self._cell(key, number) and good
        return good

    def _cell(self, key: Key, number: int) -> bool:
        """One round of one cell; False if it has no figures."""
        name, batch, chunk = key
        where = f"{name}, batch {batch}, chunk {chunk}"
        learn = min(self.args.learn // batch, LONGEST_LESSON) if chunk == "auto" else 0
        first = FIRST_STEPS if number else self.args.warm_up + learn
        window = Window(first, max(self.args.answers, 3 * batch), self.args.seconds, self.args.most)
        policy: Policy = "block" if chunk == "block" else cast(Policy, self.args.policy)
        try:
            one = measure(
                self._engine(key), self.runner, self.tokenizer, self.asked[name][: self._count(batch)], window, policy,
                chunk if isinstance(chunk, int) else None,
            )  # fmt: skip
        except RuntimeError as error:
            self.engines.pop(key, None)
            print(f"no figures: {where}: {error}", file=sys.stderr, flush=True)
            return False
        if not one.sound:
            print(f"no figures: {where}: only {one.right} of {one.judged} answers are right", file=sys.stderr)
            return False
        steps = f"{one.steps} steps of {one.step_ms:.2f} ms, at most {one.slowest_ms:.2f}"
        said = f"{one.tokens_per_second:.0f} tokens/s, TPF {one.tpf:.2f}, {steps}, host {one.host_share:.1%}"
        print(f"round {number + 1}: {where}: {said}", file=sys.stderr, flush=True)
        self.rounds[key].append(one)
        if number + 1 == self.args.rounds:
            self._keep(key)
        return True

    def _engine(self, key: Key) -> Engine:
        if key not in self.engines:
            options = EngineOptions(
                pages=self.runner.pages, page_size=PAGE, max_rows=key[1], prefill_budget=self.prefill,
                share_prefix=False, profile=self.profile,
            )  # fmt: skip
            self.engines[key] = Engine(self.runner, options)
        return self.engines[key]

    def _keep(self, key: Key) -> None:
        """Take the median round as the cell's figures, and write all there are."""
        several = self.rounds[key]
        if len(several) < self.args.rounds:
            return
        middle = statistics.median_low(one.tokens_per_second for one in several)
        one = next(one for one in several if one.tokens_per_second == middle)
        name, batch, chunk = key
        self.cells[key] = {
            "workload": name, "batch": batch, "chunk": chunk, "tokens_per_second": middle, "step_ms": one.step_ms,
        } | asdict(one)  # fmt: skip
        # kilobytes on Linux
        self.facts["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if path := self.args.json:
            workloads = {grid.name: str(grid.workload) for grid in self.grids}
            report = {"machine": self.facts, "workloads": workloads, "cells": list(self.cells.values())}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(report, indent=1) + "\n")
            partial.replace(path)

    def print(self) -> None:
        """The table, if there is anything in it."""
        if not self.cells:
            return
        print(", ".join(f"{key} {value}" for key, value in self.facts.items()))
        for name in self.asked:
            cells = [cell for (workload, _, _), cell in self.cells.items() if workload == name]
            print(
                f"{name}:\n{'batch':>5} {'chunk':>5} {'tokens/s':>9} {'step ms':>8} {'host':>5} {'TPF':>6} "
                f"{'computed/token':>14} {'right':>9}"
            )
            for cell in cells:
                print(
                    f"{cell['batch']:5} {cell['chunk']:>5} {cell['tokens_per_second']:9.0f} {cell['step_ms']:8.2f} "
                    f"{cell['host_share']:5.1%} {cell['tpf']:6.2f} {cell['computed_per_token']:14.2f} "
                    f"{cell['right']:4}/{cell['judged']}"
                )
