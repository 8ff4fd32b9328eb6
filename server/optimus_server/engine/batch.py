"""A step's rows -> the tensors of one forward, complete when made."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimus_kernels.paged_attention import AttentionPlan, plan_attention
from optimus_server.engine.request import UNMASK_RULES, Request
from optimus_server.engine.sampling import Penalties, SamplingPlan, uniform
from optimus_server.engine.step import Row, Step
from optimus_server.engine.unmask import UnmaskPlan


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step of ``n`` positions that offers ``m`` masks.

    Attributes:
        ids, positions: int64 ``[n]``, rows one after the other.
        attention: who sees whom, and where KV is written.
        predictors: int64 ``[m]``, index into ``n`` of the output that predicts each mask; the masks of a row are
            neighbours and ascend.
        masks: per row of the step, the positions of its masks (on the host, to hand results back).
        sampling, unmask: per-request parameters spread over masks and rows; None if no masks are offered.
    """

    ids: Tensor
    positions: Tensor
    attention: AttentionPlan
    predictors: Tensor
    masks: tuple[NDArray[np.int64], ...]
    sampling: SamplingPlan | None
    unmask: UnmaskPlan | None


def pack(step: Step, *, mask_id: int | None, vocab_size: int, page_size: int, device: torch.device) -> Batch:
    """Lay the rows of ``step`` out for the device.

    Example: rows [4, 7) and [0, 2) become positions 4 5 6 0 1.
    """
    rows = step.rows
    masks = tuple(row.candidates() for row in rows)
    first = np.cumsum([0] + [row.width for row in rows])
    predictors = [
        first[i] + offered - (row.start + row.request.shift)
        for i, (row, offered) in enumerate(zip(rows, masks, strict=True))
    ]
    put = partial(_put, device=device)
    return Batch(
        ids=put(np.concatenate([_ids(row, mask_id) for row in rows])),
        positions=put(np.concatenate([np.arange(row.start, row.stop) for row in rows])),
        attention=plan_attention(
            [row.start for row in rows],
            [row.stop for row in rows],
            [row.visible for row in rows],
            list(step.tables),
            block_size=rows[0].request.block_size,
            page_size=page_size,
            device=device,
        ),
        predictors=put(np.concatenate(predictors)),
        masks=masks,
        sampling=_sampling_plan(rows, masks, vocab_size, device),
        unmask=_unmask_plan(rows, masks, device),
    )


def _put(array: NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def _ids(row: Row, mask_id: int | None) -> NDArray[np.int64]:
    request, here = row.request, slice(row.start, row.stop)
    if mask_id is None:
        assert row.stop <= request.frontier
        return request.tokens[here]
    return np.where(request.committed[here], request.tokens[here], mask_id)


def _sampling_plan(
    rows: tuple[Row, ...], masks: tuple[NDArray[np.int64], ...], vocab_size: int, device: torch.device
) -> SamplingPlan | None:
    if not any(map(len, masks)):
        return None
    sampled: list[NDArray[np.int64]] = []
    per_mask: list[NDArray[np.float64]] = []
    noise: list[NDArray[np.float64]] = []
    offset = 0
    for row, offered in zip(rows, masks, strict=True):
        params, count = row.request.params, len(offered)
        if params.temperature > 0:
            sampled.append(np.arange(offset, offset + count))
            top_k = min(params.top_k, vocab_size) or vocab_size
            per_mask.append(np.tile([params.temperature, top_k, params.top_p, params.typical_p], (count, 1)))
            counters = (np.full(count, params.seed, np.uint64), np.full(count, row.request.steps, np.uint64))
            noise.append(uniform(*counters, offered.astype(np.uint64)))
        offset += count
    values = np.concatenate([np.zeros((0, 4)), *per_mask])
    put = partial(_put, device=device)
    return SamplingPlan(
        sampled=put(np.concatenate([np.zeros(0, np.int64), *sampled])),
        temperature=put(values[:, 0]),
        top_k=put(values[:, 1].astype(np.int64)),
        top_p=put(values[:, 2]),
        typical_p=put(values[:, 3]),
        uniform=put(np.concatenate([np.zeros(0), *noise])),
        typical=bool((values[:, 3] < 1).any()),
        entropy=any(row.request.params.unmask == "entropy_bounded" for row in rows),
        top_n=max(row.request.params.top_n for row in rows),
        penalties=_penalties(rows, masks, put),
    )


def _penalties(
    rows: tuple[Row, ...],
    masks: tuple[NDArray[np.int64], ...],
    put: Callable[[NDArray[np.int64] | NDArray[np.float64]], Tensor],
) -> Penalties | None:
    first = np.cumsum([0] + [len(offered) for offered in masks])
    whose = [i for i, row in enumerate(rows) if row.request.params.penalised and len(masks[i])]
    if not whose:
        return None
    entries = [_entries(rows[i].request) for i in whose]
    lengths = [len(ids) for ids, _, _ in entries]
    return Penalties(
        mask=put(np.concatenate([np.arange(first[i], first[i + 1]) for i in whose])),
        row=put(np.repeat(np.arange(len(whose)), [len(masks[i]) for i in whose])),
        entry_row=put(np.repeat(np.arange(len(whose)), lengths)),
        entry_id=put(np.concatenate([ids for ids, _, _ in entries])),
        divide=put(np.concatenate([divide for _, divide, _ in entries])),
        subtract=put(np.concatenate([subtract for _, _, subtract in entries])),
        rows=len(whose),
    )


def _entries(request: Request) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The tokens a request has committed, by what their logits are divided, and what is taken from them."""
    params, committed, prompt = request.params, request.committed, request.prompt_len
    ids = np.unique(request.tokens[committed])
    said, counts = np.unique(request.tokens[prompt:][committed[prompt:]], return_counts=True)
    subtract = np.zeros(len(ids))
    subtract[np.searchsorted(ids, said)] = counts * params.frequency_penalty + params.presence_penalty
    return ids, np.full(len(ids), params.repetition_penalty), subtract


def _unmask_plan(
    rows: tuple[Row, ...], masks: tuple[NDArray[np.int64], ...], device: torch.device
) -> UnmaskPlan | None:
    counts = [len(offered) for offered in masks]
    if not any(counts):
        return None
    params = [row.request.params for row in rows]
    put = partial(_put, device=device)
    return UnmaskPlan(
        row=put(np.repeat(np.arange(len(rows)), counts)),
        column=put(np.concatenate([np.arange(count) for count in counts])),
        certain=put(np.concatenate([_certain(row, offered) for row, offered in zip(rows, masks, strict=True)])),
        edge=put(np.concatenate([offered == row.stop for row, offered in zip(rows, masks, strict=True)])),
        rule=put(np.array([UNMASK_RULES.index(p.unmask) for p in params])),
        transfer=put(np.array([p.transfer for p in params])),
        threshold=put(np.array([p.threshold for p in params])),
        entropy_bound=put(np.array([p.entropy_bound for p in params])),
        width=max(counts),
    )


def _certain(row: Row, offered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Masks that shifted logits predict from the block before theirs."""
    first_of_block: NDArray[np.bool_] = offered % row.request.block_size == 0
    return first_of_block if row.request.shift else np.zeros_like(first_of_block)
