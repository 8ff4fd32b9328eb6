"""Logits of masked positions -> a token, its confidence and, where asked for, entropies and alternatives.

Confidence is the probability of the chosen token after penalties at the request's temperature (1 when greedy), before
top-k, top-p and typical-p: filtering would make every survivor look certain, and greedy decoding as top-k = 1 would
commit whole blocks.

Penalties look at what a request has committed before the step; tokens of one step do not see each other. Repetition
(Keskar et al. 2019) counts prompt and answer, frequency and presence count the answer, as OpenAI defines them.

Draws come from a counter-based generator keyed by (seed, step of the request, position), so a request samples the
same tokens alone or in any batch, and again after preemption.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UInt64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Penalties:
    """What ``r`` requests with penalties, which have ``q`` masks, do to the logits of ``e`` tokens they have committed.

    Attributes:
        mask, row: int64 ``[q]``, the masks and whose they are.
        entry_row, entry_id: int64 ``[e]``, whose token and which.
        divide, subtract: float64 ``[e]``; negative logits are multiplied by ``divide``.
        rows: r.
    """

    mask: Tensor
    row: Tensor
    entry_row: Tensor
    entry_id: Tensor
    divide: Tensor
    subtract: Tensor
    rows: int


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Sampling parameters of the ``m`` masked positions of a step.

    Attributes:
        sampled: int64 ``[s]``, the positions that are not greedy; the other tensors describe only these.
        temperature, top_p, typical_p, uniform: float64 ``[s]``; 1 is off.
        top_k: int64 ``[s]``; the vocabulary's size is off.
        typical: whether any request asks for typical-p.
        entropy: whether any request asks for entropies.
        top_n: alternatives wanted by the request that wants most.
        penalties: None if no request has any.
    """

    sampled: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    typical_p: Tensor
    uniform: Tensor
    typical: bool = False
    entropy: bool = False
    top_n: int = 0
    penalties: Penalties | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A token int64 ``[m]`` and its confidence ``[m]``; entropy ``[m]`` in nats if the plan asks for it.

    ``top`` is id, log-probability, id, log-probability ..., each ``[m]``, best first, ``top_n`` of them.
    """

    token: Tensor
    confidence: Tensor
    entropy: Tensor | None
    top: tuple[Tensor, ...]


def choose(logits: Tensor, plan: SamplingPlan, mask_id: int | None) -> Choice:
    """Choose a token for each row of ``logits [m, vocab]``, which may be overwritten; never the mask id.

    Computes in float32 or, for a float64 model, float64.
    """
    if logits.dtype is not torch.float64:
        logits = logits.float()
    if plan.penalties:
        _penalise(logits, plan.penalties)
    if mask_id is not None:
        logits[:, mask_id] = -torch.inf
    if len(plan.sampled):
        logits[plan.sampled] /= plan.temperature[:, None].to(logits.dtype)
    logprobs = logits.log_softmax(-1)
    token = logprobs.argmax(-1)
    if len(plan.sampled):
        token[plan.sampled] = _draw(logprobs[plan.sampled].exp(), plan)
    confidence = logprobs.gather(1, token[:, None])[:, 0].exp()
    entropy = torch.special.entr(logprobs.exp()).sum(-1) if plan.entropy else None
    best, ids = logprobs.topk(min(plan.top_n, logprobs.shape[1]))
    top = tuple(column for pair in zip(ids.unbind(1), best.unbind(1), strict=True) for column in pair)
    return Choice(token, confidence, entropy, top)


def _penalise(logits: Tensor, plan: Penalties) -> None:
    shape = (plan.rows, logits.shape[1])
    divide, subtract = logits.new_ones(shape), logits.new_zeros(shape)
    divide[plan.entry_row, plan.entry_id] = plan.divide.to(logits.dtype)
    subtract[plan.entry_row, plan.entry_id] = plan.subtract.to(logits.dtype)
    these, divide = logits[plan.mask], divide[plan.row]
    logits[plan.mask] = torch.where(these < 0, these * divide, these / divide) - subtract[plan.row]


def _draw(probs: Tensor, plan: SamplingPlan) -> Tensor:
    """Sample ``probs [s, vocab]`` after top-k, top-p and typical-p, in TGI's order, by inverting the cumulative
    distribution at ``uniform``.

    Top-p keeps the most probable tokens up to and including the one that reaches p of what top-k has left.
    """
    probs, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    probs = probs.masked_fill(rank >= plan.top_k[:, None], 0)
    probs = probs / probs.sum(-1, keepdim=True)
    before = probs.cumsum(-1) - probs
    # The best token always stays, also where top_p is less than float32 can tell from 0.
    probs = probs.masked_fill((before >= plan.top_p[:, None].to(probs.dtype)) & (rank > 0), 0)
    if plan.typical:
        probs = _typical(probs, plan.typical_p)
    cumulative = probs.cumsum(-1)
    target = plan.uniform[:, None].to(probs.dtype) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)
    # Rounding may put the target on the total; the last token kept is meant then. NaN keeps none: any index will do.
    last = ((probs > 0) * rank).amax(-1, keepdim=True)
    chosen = torch.minimum(chosen, last)
    return order.gather(1, chosen)[:, 0]


def _typical(probs: Tensor, mass: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the entropy (Meister et al. 2022), up to the one that reaches
    ``mass``; at least one."""
    probs = probs / probs.sum(-1, keepdim=True)
    surprise = -probs.log()
    distance = (surprise - torch.special.entr(probs).sum(-1, keepdim=True)).abs()
    _, order = distance.sort(dim=-1, stable=True)
    ordered = probs.gather(1, order)
    before = ordered.cumsum(-1) - ordered
    drop = (before >= mass[:, None].to(probs.dtype)) & (mass < 1)[:, None]
    drop[:, 0] = False
    return probs.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), 0)


def uniform(seed: UInt64, step: UInt64, position: UInt64) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), a pure function of three counters (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = _mix(_mix(_mix(seed) + step) + position)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: UInt64) -> UInt64:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
