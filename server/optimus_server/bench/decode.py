"""``optimus bench decode``: the engine alone, without server or network, over batch x chunk size.

A closed loop keeps ``batch`` requests decoding; the clock stops when the last held-out prompt has begun, so that the
figures are of a full batch. All answers are finished and judged, and no figures come from wrong ones: a fast wrong
answer is no result. Rounds go over the whole grid again, and each cell's figures come from its median round, so that a
busy machine disturbs all cells alike.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from optimus_server.bench.flags import machine, positive
from optimus_server.demo import MODELS
from optimus_server.demo.tasks import TASKS, Example, held_out
from optimus_server.engine.elastic.latency import Profile
from optimus_server.engine.elastic.yields import YieldModel
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.profile import measure as measure_profile
from optimus_server.engine.request import POLICIES, Committed, Failed, Finished, Params, Request, Usage
from optimus_server.engine.runner import Runner
from optimus_server.errors import OptimusError
from optimus_server.models.loader import LoadedModel, load_model
from optimus_server.settings import default_threads
from optimus_server.text.tokenizer import Tokenizer

# The demo model answers 0.99 of its scored prompts and more; a decoder with any fault at all falls far below this.
RIGHT_ENOUGH = 0.9
# Where only open-ended tasks were asked for: at large chunks 0.9 of its stories are sound.
SOUND_ENOUGH = 0.8
# Positions of a page, of prompt in a step, of an answer at most.
PAGE, PREFILL, ROOM = 32, 512, 768

Cell = tuple[int, int | str]
"""Batch, and a chunk size, ``auto`` (the controller's choice) or ``block`` (the policy)."""


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over the prompts at one batch and chunk size.

    Attributes:
        tokens, seconds, steps: while the batch was full; the rest is of all answers, to their ends.
        host_share: of the time, that in which the device waited for the host.
        right, judged: of the scored prompts; of all if none is scored.
        enough: share of right answers below which the figures mean nothing.
    """

    tokens: int
    seconds: float
    steps: int
    host_share: float
    tpf: float
    computed_per_token: float
    right: int
    judged: int
    enough: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def step_ms(self) -> float:
        return 1e3 * self.seconds / self.steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench decode``."""
    parser.add_argument(
        "--model", type=Path, default=MODELS / "demo", help="a checkpoint that answers the demo's tasks"
    )
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 4, 16], help="requests that decode together")
    parser.add_argument(
        "--chunk", type=_scheme, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, "auto", "block"],
        help="chunk sizes; auto: the controller's choice, with a profile measured first; block: whole blocks, always",
    )  # fmt: skip
    parser.add_argument("--policy", choices=POLICIES, default="chunk")
    parser.add_argument("--task", nargs="+", choices=TASKS, help="only these tasks of the demo model")
    parser.add_argument(
        "--rounds", type=positive, default=3, help="passes over the grid; figures are of the median one"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=positive, default=default_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")


def _scheme(text: str) -> int | str:
    return text if text in ("auto", "block") else positive(text)


def run(args: argparse.Namespace) -> int:
    """Measure, check, print; 0, or 1 if answers were wrong, or 2 if the checkpoint cannot be used."""
    torch.set_num_threads(args.threads)
    try:
        model = load_model(args.model, device=args.device)
        tokenizer = Tokenizer.load(args.model)
    except (OptimusError, OSError) as error:
        print(f"optimus bench decode: {error}", file=sys.stderr)
        return 2
    runner = _runner(model, max(args.batch), tokenizer)
    if runner.device.type == "cuda":
        _warm_up(runner, tokenizer)
    grid = [(batch, chunk) for batch in args.batch for chunk in args.chunk]
    rounds: dict[Cell, list[Round]] = {cell: [] for cell in grid}
    profile = Profile.unmeasured()
    if "auto" in args.chunk:
        profile = measure_profile(runner, max_positions=_largest_step(model, max(args.batch)))
    # A server has seen other requests before: each round goes on with the yields of the one before.
    yields = {cell: YieldModel(model.config.block_size, model.config.logit_shift) for cell in grid}
    for number in range(args.rounds):
        for batch, chunk in grid:
            examples = held_out(max(24, 4 * batch), only=args.task or ())
            options = EngineOptions(
                pages=runner.pages, page_size=PAGE, max_rows=batch, prefill_budget=PREFILL, share_prefix=False,
                profile=profile,
            )  # fmt: skip
            engine = Engine(runner, options)
            engine.controller.yields = yields[batch, chunk]
            policy = "block" if chunk == "block" else args.policy
            size = chunk if isinstance(chunk, int) else None
            one = measure(engine, runner, tokenizer, examples, size, policy)
            rounds[batch, chunk].append(one)
            said = f"{one.tokens_per_second:.0f} tokens/s, {one.step_ms:.2f} ms a step, host {one.host_share:.1%}"
            print(f"round {number + 1}: batch {batch}, chunk {chunk}: {said}", file=sys.stderr, flush=True)
    if wrong := _wrong(rounds):
        print(f"no figures: {wrong}", file=sys.stderr)
        return 1
    _report(rounds, model, args)
    return 0


def _warm_up(runner: Runner, tokenizer: Tokenizer) -> None:
    """Kernels are compiled when they are first used, which is no part of any figure."""
    options = EngineOptions(
        pages=runner.pages, page_size=PAGE, max_rows=4, prefill_budget=PREFILL, share_prefix=False
    )  # fmt: skip
    measure(Engine(runner, options), runner, tokenizer, held_out(8), None, "chunk")


def _largest_step(model: LoadedModel, batch: int) -> int:
    return 2 * batch * model.config.block_size + PREFILL


def _runner(model: LoadedModel, batch: int, tokenizer: Tokenizer) -> Runner:
    """With KV memory for the largest batch; on a GPU, with recorded steps."""
    longest = max(len(tokenizer.encode_chat(example.inputs)[0]) for example in held_out(4 * batch))
    positions = min(longest + ROOM + 2 * model.config.block_size, model.config.max_position_embeddings)
    runner = Runner(model, pages=(batch + 1) * -(-positions // PAGE), page_size=PAGE)
    if runner.device.type == "cuda":
        runner.record(max_rows=batch, max_positions=_largest_step(model, batch))
    return runner


def measure(
    engine: Engine, runner: Runner, tokenizer: Tokenizer, examples: Sequence[Example], chunk: int | None, policy: str
) -> Round:
    """Decode all examples greedily, as many at a time as the engine takes."""
    config = engine.config
    for number, example in enumerate(examples):
        ids, _ = tokenizer.encode_chat(example.inputs)
        room = min(ROOM, engine.capacity - len(ids))
        params = Params(max_new_tokens=room, stop_ids=config.eos_token_ids, policy=policy, chunk=chunk)  # type: ignore[arg-type]
        engine.add(Request(str(number), ids, params, block_size=config.block_size, shift=config.logit_shift))
    answers: list[list[int]] = [[] for _ in examples]
    usages: list[Usage] = []
    full = (0, 0.0, 0, 0.0)
    tokens, steps, started, busy = 0, 0, time.perf_counter(), runner.busy_s
    while engine.busy:
        steps += 1
        for name, event in engine.step():
            match event:
                case Committed(ids):
                    answers[int(name)] += ids
                    tokens += len(ids)
                case Finished(_, usage):
                    usages.append(usage)
                case Failed(message):
                    raise RuntimeError(message)
        if engine.load().waiting:
            full = (tokens, time.perf_counter() - started, steps, runner.busy_s - busy)
    tokens_full, seconds, steps_full, busy_full = full
    texts = [tokenizer.decode([i for i in answer if i not in config.eos_token_ids]) for answer in answers]
    scored = any(example.scored for example in examples)
    verdicts = [e.accepts(text) for e, text in zip(examples, texts, strict=True) if e.scored or not scored]
    return Round(
        tokens=tokens_full,
        seconds=seconds,
        steps=steps_full,
        host_share=1 - busy_full / seconds,
        tpf=tokens / sum(usage.steps for usage in usages),
        computed_per_token=sum(usage.computed_positions for usage in usages) / tokens,
        right=sum(verdicts),
        judged=len(verdicts),
        enough=RIGHT_ENOUGH if scored else SOUND_ENOUGH,
    )


def _wrong(rounds: dict[Cell, list[Round]]) -> str | None:
    """Why the figures must not be reported, if there is a reason."""
    for (batch, chunk), several in rounds.items():
        right, judged = sum(one.right for one in several), sum(one.judged for one in several)
        if right < several[0].enough * judged:
            return f"batch {batch}, chunk {chunk}: only {right} of {judged} answers are right"
    return None


def _report(rounds: dict[Cell, list[Round]], model: LoadedModel, args: argparse.Namespace) -> None:
    facts = machine(args.device) | {
        "model": str(args.model.name),
        "policy": args.policy,
        "rounds": args.rounds,
        # kilobytes on Linux
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(
        f"{'batch':>5} {'chunk':>5} {'tokens/s':>9} {'step ms':>8} {'host':>5} {'TPF':>6} {'computed/token':>14} "
        f"{'right':>9}"
    )
    cells = []
    for (batch, chunk), several in rounds.items():
        middle = statistics.median_low(one.tokens_per_second for one in several)
        one = next(one for one in several if one.tokens_per_second == middle)
        print(
            f"{batch:5} {chunk:>5} {middle:9.0f} {one.step_ms:8.2f} {one.host_share:5.1%} {one.tpf:6.2f} "
            f"{one.computed_per_token:14.2f} {one.right:4}/{one.judged}"
        )
        cells.append(
            {"batch": batch, "chunk": chunk, "tokens_per_second": middle, "step_ms": one.step_ms} | asdict(one)
        )
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "cells": cells}, indent=1) + "\n")
