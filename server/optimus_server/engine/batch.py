"""A step's rows -> the tensors of its forward, and of what is decided afterwards.

While the host packs the first, a GPU waits; the second it packs while the GPU computes. Of each request a few slices
are taken, all else is arithmetic on the whole step. The tensors are the host's; ``staging`` takes them to the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimus_kernels.choose import Sampling
from optimus_kernels.paged_attention import AttentionPlan, Room, plan_attention
from optimus_server.engine.request import UNMASK_RULES, Request
from optimus_server.engine.sampling import Penalties, SamplingPlan, uniform
from optimus_server.engine.step import Ints, Row, Step, candidates
from optimus_server.engine.unmask import UnmaskPlan

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Offer:
    """The ``m`` masks that a step offers, at least one.

    Attributes:
        predictors: int64 ``[m]``, which of the step's positions has the output that predicts each mask; the masks of a
            row are neighbours and ascend.
        positions: ``[m]``, where the masks are, on the host.
        bounds: ``[rows + 1]``, where each row's masks begin among them, on the host.
        sampling, unmask: per-request parameters spread over masks and rows.
    """

    predictors: Tensor
    positions: Ints
    bounds: Ints
    sampling: SamplingPlan
    unmask: UnmaskPlan


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the forward of a step of ``n`` positions reads.

    Attributes:
        places: int64 ``[2, n]``: ids and positions, rows one after the other.
        attention: who sees whom, and where KV is written.
        room: what the tensors have room for if that is more than the step needs; surplus positions are zeros that
            nobody sees.
    """

    places: Tensor
    attention: AttentionPlan
    room: Room | None


def needed(step: Step, page_size: int) -> Room:
    """The least room that a step fits."""
    rows = step.rows
    positions, reach = sum([row.stop - row.start for row in rows]), max([row.visible for row in rows])
    return Room(len(rows), positions, -(-reach // page_size))


def pack(step: Step, room: Room | None, *, mask_id: int | None, page_size: int) -> Inputs:
    """Lay the rows of ``step`` out.

    Example: rows [4, 7) and [0, 2) become positions 4 5 6 0 1.
    """
    rows = step.rows
    starts, stops = [row.start for row in rows], [row.stop for row in rows]
    origins = np.array(starts, dtype=np.int64)
    widths = np.array(stops, dtype=np.int64) - origins
    n = int(widths.sum())
    places = np.zeros((2, room.positions if room else n), dtype=np.int64)
    tokens = np.concatenate([row.request.tokens[row.start : row.stop] for row in rows])
    committed = np.concatenate([row.request.committed[row.start : row.stop] for row in rows])
    assert mask_id is not None or committed.all()
    places[0, :n] = np.where(committed, tokens, -1 if mask_id is None else mask_id)
    places[1, :n] = np.arange(n) + np.repeat(origins + widths - np.cumsum(widths), widths)
    return Inputs(
        places=torch.from_numpy(places),
        attention=plan_attention(
            starts,
            stops,
            [row.visible for row in rows],
            step.tables,
            block_size=rows[0].request.block_size,
            page_size=page_size,
            room=room,
        ),
        room=room,
    )


def offer(step: Step, *, vocab_size: int) -> Offer | None:
    """The masks of ``step``; None if it has none."""
    rows = step.rows
    positions, owner = candidates(rows)
    m = len(positions)
    if not m:
        return None
    shift, block_size = rows[0].request.shift, rows[0].request.block_size
    params = [row.request.params for row in rows]
    bounds = np.searchsorted(owner, np.arange(len(rows) + 1))
    # Shifted logits predict the first mask of a block from the block before it.
    certain = (positions % block_size == 0) & (shift > 0)
    edge = positions == np.array([row.stop for row in rows])[owner]
    widths = np.array([row.width for row in rows])
    # [rows]: where position 0 of each row would be among the step's positions
    origins = np.cumsum(widths) - widths - np.array([row.start for row in rows])
    tensor = torch.from_numpy
    return Offer(
        predictors=tensor(positions - shift + origins[owner]),
        positions=positions,
        bounds=bounds,
        sampling=_sampling_plan(rows, positions, owner, vocab_size),
        unmask=UnmaskPlan(
            row=tensor(owner),
            column=tensor(np.arange(m) - bounds[owner]),
            certain=tensor(certain),
            edge=tensor(edge),
            rule=tensor(np.array([UNMASK_RULES.index(p.unmask) for p in params])),
            transfer=tensor(np.array([p.transfer for p in params])),
            threshold=tensor(np.array([p.threshold for p in params])),
            entropy_bound=tensor(np.array([p.entropy_bound for p in params])),
            width=int(np.diff(bounds).max()),
        ),
    )


def _sampling_plan(rows: Sequence[Row], positions: Ints, owner: Ints, vocab_size: int) -> SamplingPlan:
    params = [row.request.params for row in rows]
    draws = typical = typical_p = None
    if any(p.temperature > 0 for p in params):
        seeds = np.array([p.seed for p in params], np.uint64)[owner]
        steps = np.array([row.request.steps for row in rows], np.uint64)[owner]
        noise = uniform(seeds, steps, positions.astype(np.uint64))
        settings = np.array([(p.temperature, p.top_p, p.typical_p) for p in params])[owner]
        temperature, top_p, typical_ps = settings.T.copy()
        top_k = np.array([min(p.top_k, vocab_size) or vocab_size for p in params])[owner]
        draws = Sampling(*map(torch.from_numpy, (temperature, top_k, top_p, noise)))
        if len(places := np.flatnonzero((typical_ps < 1) & (temperature > 0))):
            typical, typical_p = torch.from_numpy(places), torch.from_numpy(typical_ps[places])
    return SamplingPlan(
        draws,
        typical,
        typical_p,
        entropy=any(p.unmask == "entropy_bounded" for p in params),
        top_n=max(p.top_n for p in params),
        penalties=_penalties(rows, owner),
    )


def _penalties(rows: Sequence[Row], owner: Ints) -> Penalties | None:
    counts = np.bincount(owner, minlength=len(rows))
    whose = [i for i, row in enumerate(rows) if row.request.params.penalised and counts[i]]
    if not whose:
        return None
    entries = [_entries(rows[i].request) for i in whose]
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
