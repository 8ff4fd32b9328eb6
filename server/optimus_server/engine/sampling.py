"""Logits of masked positions -> a token, its confidence and, where asked for, the entropy of its distribution.

Confidence is the probability of the chosen token at the request's temperature (1 when greedy), before top-k and
top-p: filtering would make every survivor look certain, and greedy decoding as top-k = 1 would commit whole blocks.

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
class SamplingPlan:
    """Sampling parameters of the ``m`` masked positions of a step.

    Attributes:
        sampled: int64 ``[s]``, the positions that are not greedy; the other tensors describe only these.
        temperature, top_p, uniform: float64 ``[s]``; top_p 1 is off.
        top_k: int64 ``[s]``; the vocabulary's size is off.
        entropy: whether any request asks for entropies.
    """

    sampled: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    uniform: Tensor
    entropy: bool


def choose(logits: Tensor, plan: SamplingPlan, mask_id: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Choose a token for each row of ``logits [m, vocab]``.

    Returns:
        token int64 ``[m]``, confidence ``[m]`` and entropy ``[m]`` in nats (None unless the plan asks for it), in
        float32 or, for a float64 model, float64. The mask id is never chosen. ``logits`` may be overwritten.
    """
    if logits.dtype is not torch.float64:
        logits = logits.float()
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
    return token, confidence, entropy


def _draw(probs: Tensor, plan: SamplingPlan) -> Tensor:
    """Sample ``probs [s, vocab]`` after top-k, then top-p, by inverting the cumulative distribution at ``uniform``.

    Top-p keeps the most probable tokens up to and including the one that reaches p of what top-k has left.
    """
    probs, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    probs = probs.masked_fill(rank >= plan.top_k[:, None], 0)
    probs = probs / probs.sum(-1, keepdim=True)
    before = probs.cumsum(-1) - probs
    # The best token always stays, also where top_p is less than float32 can tell from 0.
    probs = probs.masked_fill((before >= plan.top_p[:, None].to(probs.dtype)) & (rank > 0), 0)
    cumulative = probs.cumsum(-1)
    target = plan.uniform[:, None].to(probs.dtype) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)
    # Rounding may put the target on the total; the last token kept is meant then. NaN keeps none: any index will do.
    last = (probs > 0).sum(-1, keepdim=True) - 1
    chosen = torch.minimum(chosen, last).clamp(min=0)
    return order.gather(1, chosen)[:, 0]


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
