"""A step's rows -> the tensors of one forward, complete when made.

Of each request a few slices are taken; all else is arithmetic on the whole step, and few copies to the device: while
the host packs, a GPU waits.
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
class Batch:
    """Tensors of one step of ``n`` positions.

    Attributes:
        inputs: int64 ``[2, n]``: ids and positions, rows one after the other.
        attention: who sees whom, and where KV is written.
        room: what the tensors have room for if that is more than the step needs; surplus positions are zeros that
            nobody sees.
        rows: how many there are.
    """

    inputs: Tensor
    attention: AttentionPlan
    room: Room | None
    rows: int
    offer: Offer | None


def needed(step: Step, page_size: int) -> Room:
    """The least room that a step fits."""
    rows = step.rows
    positions, reach = sum([row.stop - row.start for row in rows]), max([row.visible for row in rows])
    return Room(len(rows), positions, -(-reach // page_size))


def pack(
    step: Step, room: Room | None, *, mask_id: int | None, vocab_size: int, page_size: int, device: torch.device
) -> Batch:
    """Lay the rows of ``step`` out for the device.

    Example: rows [4, 7) and [0, 2) become positions 4 5 6 0 1.
    """
    rows = step.rows
    starts, stops = [row.start for row in rows], [row.stop for row in rows]
    origins = np.array(starts, dtype=np.int64)
    widths = np.array(stops, dtype=np.int64) - origins
    # [rows]: where each row begins among the step's positions
    begins = np.cumsum(widths) - widths
    n = int(widths.sum())
    inputs = np.zeros((2, room.positions if room else n), dtype=np.int64)
    tokens = np.concatenate([row.request.tokens[row.start : row.stop] for row in rows])
    committed = np.concatenate([row.request.committed[row.start : row.stop] for row in rows])
    assert mask_id is not None or committed.all()
    inputs[0, :n] = np.where(committed, tokens, -1 if mask_id is None else mask_id)
    inputs[1, :n] = np.arange(n) + np.repeat(origins - begins, widths)
    return Batch(
        inputs=_send(inputs, device),
        attention=plan_attention(
            starts,
            stops,
            [row.visible for row in rows],
            step.tables,
            block_size=rows[0].request.block_size,
            page_size=page_size,
            device=device,
            room=room,
        ),
        room=room,
        rows=len(rows),
        offer=_offer(rows, begins - origins, vocab_size, device),
    )


def _offer(rows: Sequence[Row], offsets: Ints, vocab_size: int, device: torch.device) -> Offer | None:
    """Args: offsets: where position 0 of each row would be among the step's positions."""
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
    predictors, of_row, column, rule, transfer = _send_all(
        [
            positions - shift + offsets[owner],
            owner,
            np.arange(m) - bounds[owner],
            np.array([UNMASK_RULES.index(p.unmask) for p in params]),
            np.array([p.transfer for p in params]),
        ],
        device,
    )
    flags = _send(np.stack([certain, edge]), device)
    limits = _send(np.array([[p.threshold for p in params], [p.entropy_bound for p in params]]), device)
    return Offer(
        predictors=predictors,
        positions=positions,
        bounds=bounds,
        sampling=_sampling_plan(rows, positions, owner, vocab_size, device),
        unmask=UnmaskPlan(
            row=of_row,
            column=column,
            certain=flags[0],
            edge=flags[1],
            rule=rule,
            transfer=transfer,
            threshold=limits[0],
            entropy_bound=limits[1],
            width=int(np.diff(bounds).max()),
        ),
    )


def _sampling_plan(
    rows: Sequence[Row], positions: Ints, owner: Ints, vocab_size: int, device: torch.device
) -> SamplingPlan:
    params = [row.request.params for row in rows]
    draws = typical = typical_p = None
    if any(p.temperature > 0 for p in params):
        seeds = np.array([p.seed for p in params], np.uint64)[owner]
        steps = np.array([row.request.steps for row in rows], np.uint64)[owner]
        noise = uniform(seeds, steps, positions.astype(np.uint64))
        settings = np.array([(p.temperature, p.top_p, p.typical_p) for p in params])[owner]
        temperature, top_p, random = _send(np.stack([settings[:, 0], settings[:, 1], noise]), device)
        top_k = _send(np.array([min(p.top_k, vocab_size) or vocab_size for p in params])[owner], device)
        draws = Sampling(temperature, top_k, top_p, random)
        if len(places := np.flatnonzero((settings[:, 2] < 1) & (settings[:, 0] > 0))):
            typical, typical_p = _send(places, device), _send(settings[places, 2], device)
    return SamplingPlan(
        draws,
        typical,
        typical_p,
        entropy=any(p.unmask == "entropy_bounded" for p in params),
        top_n=max(p.top_n for p in params),
        penalties=_penalties(rows, owner, device),
    )


def _penalties(rows: Sequence[Row], owner: Ints, device: torch.device) -> Penalties | None:
    counts = np.bincount(owner, minlength=len(rows))
    whose = [i for i, row in enumerate(rows) if row.request.params.penalised and counts[i]]
    if not whose:
        return None
    entries = [_entries(rows[i].request) for i in whose]
    ids, divide, subtract = (np.concatenate(each) for each in zip(*entries, strict=True))
    return Penalties(
        mask=_send(np.flatnonzero(np.isin(owner, whose)), device),
        row=_send(np.repeat(np.arange(len(whose)), counts[whose]), device),
        entry_row=_send(np.repeat(np.arange(len(whose)), [len(some) for some, _, _ in entries]), device),
        entry_id=_send(ids, device),
        divide=_send(divide, device),
        subtract=_send(subtract, device),
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


def _send(array: Ints | Floats | NDArray[np.bool_], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # From pinned memory the copy does not wait for what the device is doing.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _send_all(arrays: Sequence[Ints], device: torch.device) -> tuple[Tensor, ...]:
    """Several in one copy."""
    return torch.split(_send(np.concatenate(arrays), device), [len(array) for array in arrays])
