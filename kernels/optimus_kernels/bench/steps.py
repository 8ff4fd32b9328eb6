"""The kernels that make a step's rows and move its requests on: layout and unmasking."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from optimus_kernels.bench.measure import DEVICE, Contender
from optimus_kernels.layout.kernel import lay_out_triton
from optimus_kernels.layout.reference import lay_out_reference
from optimus_kernels.paged_attention import AttentionPlan, Room
from optimus_kernels.slots import IN_BLOCK, POLICIES, RULES, STOPS, WHOLE_BLOCK, Rows, Slots, Turns
from optimus_kernels.unmask.kernel import unmask_triton
from optimus_kernels.unmask.reference import unmask_reference

BLOCK, PAGE, CANVAS, CHUNK = 32, 32, 2048, 8
MASK_ID = 7
_VOCAB = 50
"""Tokens that are told apart; which they are costs nothing."""

_SETS = 64
# of the checks: requests, and how often
_COUNT, _SEEDS = 100, 6

Case = tuple[Slots, Turns]


def _ints(values: object) -> Tensor:
    return torch.tensor(np.array(values), dtype=torch.int32, device=DEVICE)


def mixture(rng: Generator, count: int, shift: int, *, block: int, page: int, canvas: int) -> Case:
    """Requests of all policies and rules anywhere in their lives, some of which have ended, in slots without order."""
    places = count + 20
    tokens, lengths = np.full((places, canvas), -1), np.zeros((places, 6), int)
    slots, fields = rng.permutation(places)[:count], []
    for slot in slots:
        known = int(rng.integers(1, canvas * 5 // 8))
        end = min(canvas, known // block * block + block * int(rng.integers(1, 4)))
        frontier = int(rng.integers(known, end))
        cached = int(rng.integers(max(0, frontier - block - 2), frontier - shift + 1))
        exact = cached // block * block
        drawn = int(rng.integers(cached, end))
        tokens[slot, :frontier] = rng.integers(0, _VOCAB, frontier)
        tokens[slot, rng.integers(frontier, end, 5)] = 3
        tokens[slot, frontier] = -1
        policy = int(rng.choice(POLICIES))
        if policy == WHOLE_BLOCK:
            cached = exact
        lengths[slot] = cached, exact, drawn, frontier, int(rng.integers(0, 9)), rng.random() < 0.1
        cut = exact + block if rng.random() < 0.2 and exact + block <= known - shift else -1
        fields.append(
            (slot, rng.integers(1, 2 * block + 1), rng.integers(0, 2), cut, known, end - rng.integers(0, block), end,
             policy, rng.choice(RULES), rng.integers(1, 4))
        )  # fmt: skip
    return Slots(_ints(tokens), _ints(lengths)), _turns(rng, fields, canvas // page)


def _steady(rng: Generator, count: int) -> Case:
    """Requests in the middle of blocks, each of which computes a chunk of ``CHUNK`` masks."""
    tokens, lengths, fields = np.full((count, CANVAS), -1), np.zeros((count, 6), int), []
    for slot in range(count):
        begin = int(rng.integers(1, CANVAS // BLOCK - 1)) * BLOCK
        frontier = begin + int(rng.integers(0, BLOCK - CHUNK + 1))
        tokens[slot, :frontier] = rng.integers(0, _VOCAB, frontier)
        lengths[slot] = frontier, begin, frontier, frontier, 5, 0
        fields.append((slot, CHUNK, 0, -1, begin, CANVAS, CANVAS, IN_BLOCK, 0, 1))
    return Slots(_ints(tokens), _ints(lengths)), _turns(rng, fields, CANVAS // PAGE)


def _turns(rng: Generator, fields: Sequence[Sequence[Any]], pages: int) -> Turns:
    count = len(fields)
    return Turns(
        fields=_ints(fields).T.contiguous(),
        limits=torch.tensor(rng.random((2, count)), device=DEVICE),
        stops=_ints(rng.choice([-1, 3, 9, 11], (count, STOPS))),
        tables=_ints(rng.integers(0, 500, (count, pages))),
    )


def _room(
    rows: int, n: int, *, block: int = BLOCK, page: int = PAGE, canvas: int = CANVAS
) -> tuple[Tensor, AttentionPlan]:
    """Where ``lay_out`` writes: places and plan."""
    room = Room(rows, n, canvas // page + 1)
    plan = AttentionPlan.empty(room, block_size=block, page_size=page, width=n, reach=canvas, device=DEVICE)
    return torch.full((2, n), 77, dtype=torch.int64, device=DEVICE), plan


def contenders(n: int) -> Iterator[Contender]:
    """``n`` positions in rows of ``CHUNK``, each somewhere in a canvas of ``CANVAS``; no shift.

    Unmasking moves its requests on, so a call puts their lengths back first; what that takes stands beside it.
    """
    rng, rows, pages = np.random.default_rng(n), n // CHUNK, CANVAS // PAGE
    sets: list[tuple[Any, ...]] = []
    for _ in range(_SETS):
        slots, turns = _steady(rng, rows)
        sets.append((slots, turns, *_room(rows, n)))
    options: dict[str, Any] = {"masks": n, "shift": 0, "mask_id": MASK_ID}
    bytes_ = n * (2 * 4 + 16 + 4 + 20) + rows * (24 + 40 + 24 + 8 * pages)
    for name, lay_out in (("triton", lay_out_triton), ("torch", lay_out_reference)):
        yield Contender("layout", name, partial(lay_out, **options), sets, bytes_)

    moves = []
    for slots, turns, places, plan in sets:
        made = lay_out_triton(slots, turns, places, plan, **options)
        token = torch.tensor(rng.integers(0, _VOCAB, n), device=DEVICE)
        confidence = torch.tensor(rng.random(n), dtype=torch.float32, device=DEVICE)
        moves.append((slots, slots.lengths.clone(), turns, made, token, confidence))
    bytes_ = n * 17 + rows * (2 * 24 + 40 + 16 + 16 + 8 * BLOCK)
    yield Contender("unmask", "triton, lengths put back", _moved, moves, bytes_)
    yield Contender("unmask", "lengths put back, alone", _put_back, moves, 48 * rows)


def _put_back(slots: Slots, lengths: Tensor, *_: object) -> Tensor:
    return slots.lengths.copy_(lengths)


def _moved(slots: Slots, lengths: Tensor, turns: Turns, made: Rows, token: Tensor, confidence: Tensor) -> Tensor:
    _put_back(slots, lengths)
    return unmask_triton(slots, turns, made, token, confidence, None, block_size=BLOCK, shift=0, span=BLOCK)


def check() -> list[str]:
    """What differs from the references, if anything: nothing here is rounded."""
    wrong = []
    for seed in range(_SEEDS):
        # In every second step there is no room for all rows.
        shift, share = seed % 2, (1.0, 0.5)[seed // 2 % 2]
        rng = np.random.default_rng(seed)
        slots, turns = mixture(rng, _COUNT, shift, block=BLOCK, page=PAGE, canvas=CANVAS)
        n = int(_COUNT * BLOCK * share)
        token = torch.tensor(rng.integers(0, 12, n), device=DEVICE)
        confidence, entropy = torch.tensor(rng.integers(0, 9, (2, n)) / 8, dtype=torch.float32, device=DEVICE)
        told = [
            _step(lay_out, unmask, slots, turns, (token, confidence, entropy), shift)
            for lay_out, unmask in ((lay_out_triton, unmask_triton), (lay_out_reference, unmask_reference))
        ]
        wrong += [f"{name}, seed {seed}" for name in told[0] if not torch.equal(told[0][name], told[1][name])]
    return wrong


def _step(
    lay_out: Callable[..., Rows],
    unmask: Callable[..., Tensor],
    slots: Slots,
    turns: Turns,
    choice: tuple[Tensor, Tensor, Tensor],
    shift: int,
) -> dict[str, Tensor]:
    """Everything that one step makes of a copy of these requests, by name."""
    slots, n = Slots(slots.tokens.clone(), slots.lengths.clone()), len(choice[0])
    places, plan = _room(turns.fields.shape[1] + 3, n)
    made = lay_out(slots, turns, places, plan, masks=n, shift=shift, mask_id=MASK_ID)
    chosen = unmask(slots, turns, made, *choice, block_size=BLOCK, shift=shift, span=2 * BLOCK + 2)
    masked = made.positions >= 0
    return {
        "layout: places": places,
        "layout: plan": plan.packed,
        **{f"layout: {name}": getattr(made, name) for name in ("starts", "stops", "bounds", "positions", "predictors")},
        "layout: owner": made.owner[masked],
        "unmask: chosen": chosen & masked,
        "unmask: tokens": slots.tokens,
        "unmask: lengths": slots.lengths,
    }
