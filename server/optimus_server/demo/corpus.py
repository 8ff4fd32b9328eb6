"""Training sequences: chat turns packed exactly as the chat template renders them.

A sequence starts with a turn at position 0, as a first prompt does. After an answer's end token the rest of its block
is filled with end tokens in most turns and the next turn starts on a block border; in the others the next question
follows at once, as it does in a rendered history:

    B = 8:  U q q A a a E E | U q A a a E U q | q q A a ...
            filled to the border    not filled: the next question follows

Each position has a role. Only answers and their fill carry loss. A block in which a later question follows an answer
cannot occur while that answer is being decoded, so its answer positions are never masked in block diffusion; they
still serve as context and as autoregressive targets.

This module never imports torch: worker processes load it.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import Tokenizer

from optimus_server.demo.tasks import draw
from optimus_server.demo.tasks.talk import SYSTEM_PROMPTS
from optimus_server.demo.tokenizer import ASSISTANT, END, USER

BLOCK = 32
CONTEXT, TARGET, MASKABLE = 0, 1, 2  # roles; maskable positions are targets, too

_FILLED = 0.7  # share of turns whose last block is filled with end tokens
_WITH_SYSTEM = 0.03  # share of sequences that begin with a system message


@dataclass(frozen=True)
class Layout:
    """Sizes of one shard: ``batches`` lists the sequence length of each batch, all of ``tokens`` tokens."""

    tokens: int = 98_304
    batches: tuple[int, ...] = (256, 256, 512, 256, 256, 1024, 256, 2048)


Arrays = tuple[np.ndarray, np.ndarray]  # ids uint16 and roles uint8, both [sequences, length]


def pack(turns: Iterator[tuple[list[int], list[int]]], length: int, rng: Random, block: int = BLOCK) -> Arrays:
    """Pack (question ids, answer ids) turns into one sequence of ``length``; the last turn may be cut."""
    ids: list[int] = []
    roles: list[int] = []
    while len(ids) < length:
        question, answer = next(turns)
        ids += [USER, *question, ASSISTANT]
        roles += [CONTEXT] * (len(question) + 2)
        start = len(ids)
        ids += [*answer, END]
        filled = rng.random() < _FILLED
        if filled:
            ids += [END] * (-len(ids) % block)
        border = len(ids) - len(ids) % block  # answer positions from here on share a block with the next question
        roles += [MASKABLE if filled or p < border else TARGET for p in range(start, len(ids))]
    return np.array(ids[:length], np.uint16), np.array(roles[:length], np.uint8)


def turns(tokenizer: Tokenizer, rng: Random, room: int) -> Iterator[tuple[list[int], list[int]]]:
    """Endless encoded turns for sequences of ``room`` tokens; the very first may carry a system message."""
    system = rng.choice(SYSTEM_PROMPTS) + "\n\n" if rng.random() < _WITH_SYSTEM else ""
    while True:
        example = draw(rng, room)
        question = tokenizer.encode(system + example.prompt, add_special_tokens=False).ids
        yield question, tokenizer.encode(example.answer, add_special_tokens=False).ids
        system = ""


def shard(tokenizer: Tokenizer, layout: Layout, seed: int, index: int) -> list[Arrays]:
    """The batches of one shard; the same arguments give the same arrays on every machine."""
    batches = []
    for number, length in enumerate(layout.batches):
        rows = []
        for row in range(layout.tokens // length):
            rng = Random(f"training {seed} {index} {number} {row}")
            rows.append(pack(turns(tokenizer, rng, length), length, rng))
        batches.append((np.stack([ids for ids, _ in rows]), np.stack([roles for _, roles in rows])))
    return batches


_tokenizer: Tokenizer | None = None  # one per worker process


def _load(path: str) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_file(path)


def _work(layout: Layout, seed: int, index: int) -> list[Arrays]:
    assert _tokenizer is not None
    return shard(_tokenizer, layout, seed, index)


class Corpus:
    """Batches by number, made by worker processes ahead of their use and kept for the next pass.

    ``batch(n)`` waits for its shard if that is not ready, so training can start seconds after generation does.
    """

    def __init__(
        self, tokenizer_file: Path, layout: Layout, seed: int, shards: int, processes: int, first: int = 0
    ) -> None:
        """``first`` is the batch that will be asked for first: a resumed run does not wait for what it has seen."""
        self.layout = layout
        self.shards = shards
        self._pool: ProcessPoolExecutor | None = None
        self._made: dict[int, list[Arrays]] = {}
        self._pending: dict[int, Future[list[Arrays]]] = {}
        if processes > 1:
            self._pool = ProcessPoolExecutor(processes, get_context("spawn"), _load, (str(tokenizer_file),))
            start = first // len(layout.batches)
            order = [(start + i) % shards for i in range(shards)]
            self._pending = {i: self._pool.submit(_work, layout, seed, i) for i in order}
        else:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
            self._made = {i: shard(tokenizer, layout, seed, i) for i in range(shards)}

    def batch(self, number: int) -> Arrays:
        """Batch ``number``; after the last shard it starts again with the first."""
        index, place = divmod(number, len(self.layout.batches))
        index %= self.shards
        if index not in self._made:
            self._made[index] = self._pending.pop(index).result()
        return self._made[index][place]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
