"""Accuracy of a demo checkpoint through the real engine: policy x chunk size on held-out prompts.

Accuracy counts scored prompts whose answer is right; its interval is Wilson's, 95 %. TPF is tokens per request and
step, and computed/token the positions computed beyond the prompt for each token. Both are ratios of sums.
"""

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from tokenizers import Tokenizer

from optimus_server.demo.tasks import Example, held_out
from optimus_server.demo.tokenizer import ASSISTANT, END, USER
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Committed, Failed, Finished, Params, Policy, Request, Usage
from optimus_server.models.config import load_config
from optimus_server.models.loader import load_model
from optimus_server.settings import default_threads

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
MAX_NEW_TOKENS = 768  # the longest story of the generator has about 500
_PAGE = 32


@dataclass(frozen=True)
class Cell:
    """One line of the table: how requests are decoded. ``chunk`` has no meaning under ``block``."""

    policy: Policy
    chunk: int

    def __str__(self) -> str:
        return self.policy if self.policy == "block" else f"{self.policy} {self.chunk}"


@dataclass
class Score:
    """What one task gave under one cell."""

    right: int = 0
    prompts: int = 0
    tokens: int = 0
    steps: int = 0
    computed: int = 0

    def add(self, right: bool, usage: Usage) -> None:
        self.right += right
        self.prompts += 1
        self.tokens += usage.generated_tokens
        self.steps += usage.steps
        self.computed += usage.computed_positions

    def merge(self, other: "Score") -> None:
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def accuracy(self) -> float:
        return self.right / self.prompts if self.prompts else 0.0

    @property
    def tpf(self) -> float:
        return self.tokens / max(1, self.steps)

    @property
    def computed_per_token(self) -> float:
        return self.computed / max(1, self.tokens)

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        n, p, z = max(1, self.prompts), self.accuracy, 1.96
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@dataclass
class Result:
    """One cell's figures: all tasks, those that are scored, and each task."""

    cell: Cell
    seconds: float
    everything: Score = field(default_factory=Score)
    scored: Score = field(default_factory=Score)
    tasks: dict[str, Score] = field(default_factory=lambda: defaultdict(Score))
    wrong: list[tuple[str, str, str]] = field(default_factory=list)


def grid(logit_shift: int) -> list[Cell]:
    """The default table: chunk 1 exists with shift only, and refresh matters without."""
    sizes = [size for size in LADDER if size > 1 or logit_shift]
    cells = [Cell("block", 32), *(Cell("chunk", size) for size in sizes)]
    return cells if logit_shift else [*cells, *(Cell("refresh", size) for size in sizes)]


def glance(logit_shift: int) -> list[Cell]:
    """The cells that show whether a training run went well: fixed blocks, and chunks without and with help."""
    return [Cell("block", 32), Cell("chunk", 8), Cell("chunk", 1) if logit_shift else Cell("refresh", 8)]


def encode(tokenizer: Tokenizer, prompt: str) -> tuple[int, ...]:
    """One user turn and the assistant's tag, as the chat template renders it."""
    return (USER, *tokenizer.encode(prompt, add_special_tokens=False).ids, ASSISTANT)


def decode_all(
    model: Path, cell: Cell, prompts: list[tuple[int, ...]], *, concurrency: int, device: str, max_new: int
) -> list[tuple[list[int], Usage]]:
    """Decode every prompt greedily, ``concurrency`` at a time; answers come without the end token."""
    loaded = load_model(model, device=device)
    block, shift = loaded.config.block_size, loaded.config.logit_shift
    longest = max(map(len, prompts)) + max_new + 2 * block
    engine = Engine(
        loaded,
        EngineOptions(
            pages=(concurrency + 1) * -(-longest // _PAGE), page_size=_PAGE, max_rows=concurrency, prefill_budget=4096
        ),
    )
    for number, ids in enumerate(prompts):
        params = Params(max_new_tokens=max_new, stop_ids=frozenset({END}), policy=cell.policy, chunk=cell.chunk)
        engine.add(Request(str(number), ids, params, block_size=block, shift=shift))
    answers: list[list[int]] = [[] for _ in prompts]
    usages: dict[int, Usage] = {}
    while engine.busy:
        for name, event in engine.step():
            match event:
                case Committed():
                    answers[int(name)] += event.ids
                case Finished():
                    usages[int(name)] = event.usage
                case Failed():
                    raise RuntimeError(f"prompt {name}: {event.message}")
    return [([i for i in answer if i != END], usages[n]) for n, answer in enumerate(answers)]


def evaluate_cell(
    model: Path,
    cell: Cell,
    count: int,
    *,
    seed: int,
    concurrency: int,
    device: str,
    threads: int,
    tasks: Collection[str] = (),
    max_new: int = MAX_NEW_TOKENS,
) -> Result:
    """Run ``count`` held-out prompts under one policy and chunk size, on ``threads`` CPU threads."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    examples = held_out(count, seed, tasks)
    prompts = [encode(tokenizer, example.prompt) for example in examples]
    with torch.inference_mode():
        answers = decode_all(model, cell, prompts, concurrency=concurrency, device=device, max_new=max_new)
    result = Result(cell, 0.0)
    for example, (ids, usage) in zip(examples, answers, strict=True):
        _judge(result, example, tokenizer.decode(ids), usage)
    result.seconds = time.perf_counter() - started
    return result


def _judge(result: Result, example: Example, text: str, usage: Usage) -> None:
    right = example.accepts(text)
    result.everything.add(right, usage)
    result.tasks[example.task].add(right, usage)
    if example.scored:
        result.scored.add(right, usage)
        if not right:
            result.wrong.append((example.prompt, example.answer, text))


def evaluate(
    model: Path,
    cells: list[Cell],
    count: int,
    *,
    seed: int = 1,
    concurrency: int = 64,
    device: str = "cpu",
    jobs: int = 1,
    tasks: Collection[str] = (),
    max_new: int = MAX_NEW_TOKENS,
) -> Iterable[Result]:
    """Results in the order of ``cells``; with ``jobs`` above 1 each cell runs in a process of its own."""
    load_config(model)  # a directory that cannot be served is an error before any process starts
    options = {"seed": seed, "concurrency": concurrency, "device": device, "max_new": max_new, "tasks": tasks}
    options["threads"] = max(1, default_threads() // jobs)
    if jobs == 1:
        for cell in cells:
            yield evaluate_cell(model, cell, count, **options)  # type: ignore[arg-type]
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(evaluate_cell, model, cell, count, **options) for cell in cells]  # type: ignore[arg-type]
        for future in futures:
            yield future.result()
