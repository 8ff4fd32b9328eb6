"""A checkpoint's answers through the real engine: policy x chunk size over questions whose answers can be judged."""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import torch

from optimus_server.demo.score import Outcome, Score
from optimus_server.engine.elastic.yields import rungs
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Committed, Failed, Finished, Params, Policy, Request, Usage
from optimus_server.errors import InvalidRequest
from optimus_server.models.config import ModelConfig, load_config
from optimus_server.models.loader import LoadedModel, load_model
from optimus_server.settings import default_threads
from optimus_server.text.tokenizer import Message, Tokenizer

MAX_NEW_TOKENS = 768  # the longest story of the demo model's generator has about 500
_PAGE = 32


class Question(Protocol):
    """What is asked and how its answer is judged: an ``Example`` of the demo's, or a line of a task file."""

    @property
    def task(self) -> str:
        """The family that tables group it under."""

    @property
    def inputs(self) -> str | tuple[Message, ...]:
        """A whole prompt, or a chat that the checkpoint's template renders."""

    @property
    def answer(self) -> str:
        """What was wanted, for people who read the wrong answers."""

    @property
    def scored(self) -> bool:
        """Whether it counts towards accuracy."""

    def accepts(self, text: str) -> bool: ...


@dataclass(frozen=True)
class Cell:
    """One line of the table: how requests are decoded.

    Attributes:
        chunk: None leaves it to the controller; it has no meaning under ``block``.
    """

    policy: Policy
    chunk: int | None
    concurrency: int = 64

    def __str__(self) -> str:
        return self.policy if self.policy == "block" else f"{self.policy} {self.chunk or 'auto'}"


@dataclass
class Result:
    """One cell's outcomes, in the order of the questions, and its wrong answers: (asked, wanted, given)."""

    cell: Cell
    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[tuple[str | tuple[Message, ...], str, str]] = field(default_factory=list)

    @property
    def everything(self) -> Score:
        return Score(self.outcomes)

    @property
    def scored(self) -> Score:
        return Score([one for one in self.outcomes if one.scored])

    @property
    def tasks(self) -> dict[str, Score]:
        groups: dict[str, list[Outcome]] = defaultdict(list)
        for one in self.outcomes:
            groups[one.task].append(one)
        return {name: Score(group) for name, group in groups.items()}


def grid(
    config: ModelConfig,
    policies: Collection[Policy] = (),
    chunks: Collection[int | None] = (),
    concurrency: Collection[int] = (64,),
) -> list[Cell]:
    """Policies x chunk sizes x concurrency; what is not named is all that makes sense for the checkpoint.

    Chunk 1 exists with shift only, refresh matters without, and an autoregressive model has neither choice.
    """
    shift, block = config.logit_shift, config.block_size
    if block == 1:
        return [Cell("chunk", 1, rows) for rows in concurrency]
    if not policies:
        named: tuple[Policy, ...] = ("chunk",) if shift else ("chunk", "refresh")
        policies = named if chunks else ("block", *named)
    sizes = chunks or rungs(block, shift)
    cells = [(policy, size) for policy in policies for size in ([block] if policy == "block" else sizes)]
    return [Cell(policy, size, rows) for rows in concurrency for policy, size in cells]


def glance(logit_shift: int, concurrency: int) -> list[Cell]:
    """The cells that show whether a training run went well: fixed blocks, and chunks without and with help."""
    cells: list[tuple[Policy, int]] = [("block", 32), ("chunk", 8), ("chunk", 1) if logit_shift else ("refresh", 8)]
    return [Cell(policy, size, concurrency) for policy, size in cells]


def evaluate(
    model: Path,
    cells: Sequence[Cell],
    questions: Sequence[Question],
    *,
    device: str = "cpu",
    jobs: int = 1,
    max_new: int = MAX_NEW_TOKENS,
) -> Iterable[Result]:
    """Results in the order of ``cells``; with ``jobs`` above 1 each cell runs in a process of its own.

    Raises:
        ModelError: the checkpoint cannot be served.
        InvalidRequest: a prompt does not fit the checkpoint.
    """
    load_config(model)  # a directory that cannot be served is an error before any process starts
    threads = max(1, default_threads() // jobs)
    if jobs == 1:
        loaded, tokenizer = _load(model, device, threads)
        for cell in cells:
            yield evaluate_cell(loaded, tokenizer, cell, questions, max_new)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(_alone, model, device, threads, cell, questions, max_new) for cell in cells]
        for future in futures:
            yield future.result()


def _load(model: Path, device: str, threads: int) -> tuple[LoadedModel, Tokenizer]:
    torch.set_num_threads(threads)
    return load_model(model, device=device), Tokenizer.load(model)


def _alone(model: Path, device: str, threads: int, cell: Cell, questions: Sequence[Question], max_new: int) -> Result:
    return evaluate_cell(*_load(model, device, threads), cell, questions, max_new)


def evaluate_cell(
    model: LoadedModel, tokenizer: Tokenizer, cell: Cell, questions: Sequence[Question], max_new: int
) -> Result:
    """Ask all questions under one cell and judge the answers."""
    started = time.perf_counter()
    prompts = [
        tokenizer.encode(q.inputs) if isinstance(q.inputs, str) else tokenizer.encode_chat(q.inputs)[0]
        for q in questions
    ]
    result = Result(cell, 0.0)
    for question, (ids, usage) in zip(questions, decode_all(model, cell, prompts, max_new), strict=True):
        text = tokenizer.decode(ids)
        right = question.accepts(text)
        result.outcomes.append(
            Outcome(
                question.task, question.scored, right, usage.generated_tokens, usage.steps, usage.computed_positions
            )
        )
        if question.scored and not right:
            result.wrong.append((question.inputs, question.answer, text))
    result.seconds = time.perf_counter() - started
    return result


def decode_all(
    model: LoadedModel, cell: Cell, prompts: Sequence[tuple[int, ...]], max_new: int
) -> list[tuple[list[int], Usage]]:
    """Decode every prompt greedily, ``cell.concurrency`` at a time; answers come without their end token."""
    config = model.config
    block, shift = config.block_size, config.logit_shift
    room = config.max_position_embeddings // block * block
    for number, ids in enumerate(prompts, 1):
        if len(ids) >= room:
            raise InvalidRequest(f"prompt {number} has {len(ids)} tokens; prompt and answer must fit {room} positions")
    longest = min(room, -(-(max(map(len, prompts)) + max_new) // block) * block)
    pages = (cell.concurrency + 1) * -(-longest // _PAGE)
    engine = Engine(
        model, EngineOptions(pages=pages, page_size=_PAGE, max_rows=cell.concurrency, prefill_budget=max(4096, block))
    )
    for number, ids in enumerate(prompts):
        params = Params(
            max_new_tokens=min(max_new, room - len(ids)),
            stop_ids=config.eos_token_ids,
            policy=cell.policy,
            chunk=cell.chunk,
            threshold=config.threshold,
        )
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
    return [([i for i in answer if i not in config.eos_token_ids], usages[n]) for n, answer in enumerate(answers)]
