"""A step's turns -> the tensors that travel to the device.

They say what only the host knows: chunk sizes, page tables, the parameters of requests, and all about requests that the
device does not have yet. Rows and their contents the device works out itself (``optimus_kernels.layout``), so that it
need not wait until the host has seen the step before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimus_kernels.paged_attention import Room
from optimus_kernels.slots import STOPS, Turns
from optimus_server.engine.request import POLICIES, UNMASK_RULES, Params, Request
from optimus_server.engine.sampling import Draws, Penalties, SamplingPlan
from optimus_server.engine.step import Step, Turn

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_POLICY = {policy: number for number, policy in enumerate(POLICIES)}
_RULE = {rule: number for number, rule in enumerate(UNMASK_RULES)}


@dataclass(frozen=True, slots=True)
class Arriving:
    """Requests that the device does not have yet: their slots int64 ``[f]``, what these shall hold, and how many slots
    there must be for that.
    """

    count: int
    slots: Tensor
    tokens: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """All that the device is told of a step.

    Attributes:
        draws: None if all requests are greedy.
        plan: whatever else is asked of the choice of tokens, mask by mask.
    """

    turns: Turns
    arriving: Arriving | None
    draws: Draws | None
    plan: SamplingPlan = field(default_factory=SamplingPlan)


def needed(step: Step, page_size: int) -> Room:
    """The least room that a step fits."""
    return Room(len(step.turns), step.positions, -(-max([turn.row.visible for turn in step.turns]) // page_size))


def span(step: Step) -> int:
    """So far beyond their frontiers the requests of a step commit nothing; see ``optimus_kernels.unmask``."""
    block = step.turns[0].request.block_size
    # All policies but one stay in the block of the frontier.
    across = [max(2 * block, turn.chunk) for turn in step.turns if turn.request.params.policy == "stream"]
    return max([block, *across]) + 2


def pack(step: Step, *, pages: int, vocab_size: int) -> Batch:
    """Say what the device cannot know of ``step``.

    Args:
        pages: of which the page tables have room.
    """
    turns = step.turns
    tables = np.zeros((len(turns), pages), dtype=np.int32)
    for padded, table in zip(tables, step.tables, strict=True):
        used = table[:pages]
        padded[: len(used)] = used
    params = [turn.request.params for turn in turns]
    tensor = torch.from_numpy
    return Batch(
        turns=Turns(
            fields=tensor(np.array([fields_of(turn) for turn in turns], dtype=np.int32).T.copy()),
            limits=tensor(np.array([(p.threshold, p.entropy_bound) for p in params]).T.copy()),
            stops=tensor(np.array([_stops(p) for p in params], dtype=np.int32)),
            tables=tensor(tables),
        ),
        arriving=_arriving([turn for turn in turns if turn.fresh]),
        draws=_draws(params, vocab_size) if any(p.temperature > 0 for p in params) else None,
        plan=_plan(turns, params),
    )


def fields_of(turn: Turn) -> tuple[int, ...]:
    """In the order of ``optimus_kernels.slots``."""
    request = turn.row.request
    params = request.params
    cut = turn.row.stop if turn.prompt else -1
    return (
        turn.slot, turn.chunk, request.elastic, cut, request.known, request.end, request.canvas, _POLICY[params.policy],
        _RULE[params.unmask], params.transfer,
    )  # fmt: skip


def _stops(params: Params) -> tuple[int, ...]:
    ids = tuple(params.stop_ids)[:STOPS]
    return ids + (-1,) * (STOPS - len(ids))


def _arriving(turns: Sequence[Turn]) -> Arriving | None:
    if not turns:
        return None
    requests = [turn.request for turn in turns]
    tokens = np.full((len(turns), max(request.canvas for request in requests)), -1, dtype=np.int32)
    for line, request in zip(tokens, requests, strict=True):
        line[: request.canvas] = np.where(request.committed, request.tokens, -1)
    lengths = np.array([(r.cached, r.exact, r.drawn, r.frontier, r.steps, 0) for r in requests], dtype=np.int32)
    slots = np.array([turn.slot for turn in turns])
    return Arriving(int(slots.max()) + 1, torch.from_numpy(slots), torch.from_numpy(tokens), torch.from_numpy(lengths))


def _draws(params: Sequence[Params], vocab_size: int) -> Draws:
    return Draws(
        temperature=torch.tensor([p.temperature for p in params], dtype=torch.float64),
        top_k=torch.tensor([min(p.top_k, vocab_size) or vocab_size for p in params]),
        top_p=torch.tensor([p.top_p for p in params], dtype=torch.float64),
        seed=torch.from_numpy(np.array([p.seed for p in params], dtype=np.uint64).view(np.int64)),
    )


def _plan(turns: Sequence[Turn], params: Sequence[Params]) -> SamplingPlan:
    entropy, top_n = any(p.unmask == "entropy_bounded" for p in params), max([p.top_n for p in params])
    if all(p.foreseeable for p in params):
        return SamplingPlan(entropy=entropy, top_n=top_n)
    assert all(turn.exact for turn in turns)
    # [m]: whose each mask is
    owner = np.repeat(np.arange(len(turns)), [turn.row.masks for turn in turns])
    mass = np.array([p.typical_p if p.temperature > 0 else 1.0 for p in params])[owner]
    typical = np.flatnonzero(mass < 1)
    return SamplingPlan(
        typical=torch.from_numpy(typical) if len(typical) else None,
        typical_p=torch.from_numpy(mass[typical]) if len(typical) else None,
        entropy=entropy,
        top_n=top_n,
        penalties=_penalties([turn.request for turn in turns], owner),
    )


def _penalties(requests: Sequence[Request], owner: Ints) -> Penalties | None:
    counts = np.bincount(owner, minlength=len(requests))
    whose = [i for i, request in enumerate(requests) if request.params.penalised and counts[i]]
    if not whose:
        return None
    entries = [_entries(requests[i]) for i in whose]
    ids, divide, subtract = (np.concatenate(each) for each in zip(*entries, strict=True))
    tensor = torch.from_numpy
    return Penalties(
        mask=tensor(np.flatnonzero(np.isin(owner, whose))),
        row=tensor(np.repeat(np.arange(len(whose)), counts[whose])),
        entry_row=tensor(np.repeat(np.arange(len(whose)), [len(some) for some, _, _ in entries])),
        entry_id=tensor(ids),
        divide=tensor(divide),
        subtract=tensor(subtract),
        rows=len(whose),
    )


def _entries(request: Request) -> tuple[Ints, Floats, Floats]:
    """The tokens a request has committed, by what their logits are divided, and what is taken from them."""
    params, committed, prompt = request.params, request.committed, request.prompt_len
    ids = np.unique(request.tokens[committed])
    said, counts = np.unique(request.tokens[prompt:][committed[prompt:]], return_counts=True)
    subtract = np.zeros(len(ids))
    subtract[np.searchsorted(ids, said)] = counts * params.frequency_penalty + params.presence_penalty
    return ids, np.full(len(ids), params.repetition_penalty), subtract
