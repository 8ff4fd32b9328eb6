"""Logits of masked positions -> a token, its confidence and, where asked for, entropies and alternatives.

Tokens are chosen by ``optimus_kernels.choose``, which defines confidence. What few requests ask for stands around it,
in torch: penalties before, typical-p and alternatives after.

Penalties look at what a request has committed before the step; tokens of one step do not see each other. Repetition
(Keskar et al. 2019) counts prompt and answer, frequency and presence count the answer, as OpenAI defines them.

Draws come from a counter-based generator keyed by (seed, step of the request, position), so a request samples the
same tokens alone or in any batch, and again after preemption.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optimus_kernels.choose import Sampling, choose as choose_tokens, kept


@dataclass(frozen=True, slots=True)
class Draws:
    """How the ``r`` requests of a step draw: temperature, top-k, top-p and seed, all ``[r]``."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    seed: Tensor

    def spread(self, owner: Tensor, step: Tensor, position: Tensor) -> Sampling:
        """The same for each mask, with its random number.

        Args:
            owner, position: ``[m]``, whose the masks are and where.
            step: ``[r]``, of each request.
        """
        random = uniform(self.seed[owner], step[owner].long(), position.long())
        return Sampling(self.temperature[owner], self.top_k[owner], self.top_p[owner], random)


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
    """How the tokens of the ``m`` masked positions of a step are chosen; by default, greedily.

    Attributes:
        draws: temperature, top-k, top-p and random numbers ``[m]``; None if all are greedy.
        typical: int64 ``[t]``, the positions with a typical-p below 1.
        typical_p: float64 ``[t]``.
        entropy: whether any request asks for entropies.
        top_n: alternatives wanted by the request that wants most.
        penalties: None if no request has any.
    """

    draws: Sampling | None = None
    typical: Tensor | None = None
    typical_p: Tensor | None = None
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
    """Choose a token for each row of ``logits [m, vocab]``; never the mask id.

    Computes in float32 or, for a float64 model, float64.
    """
    if plan.penalties:
        logits = _penalised(logits, plan.penalties)
    token, confidence, entropy = choose_tokens(logits, mask_id, plan.draws, entropy=plan.entropy)
    if plan.typical is None and not plan.top_n:
        return Choice(token, confidence, entropy, ())
    logprobs = _logprobs(logits, plan.draws, mask_id)
    if plan.typical is not None:
        token[plan.typical] = _draw_typical(logprobs[plan.typical].exp(), plan)
        confidence = logprobs.gather(1, token[:, None])[:, 0].exp()
    best, ids = logprobs.topk(min(plan.top_n, logprobs.shape[1]))
    top = tuple(column for pair in zip(ids.unbind(1), best.unbind(1), strict=True) for column in pair)
    return Choice(token, confidence, entropy, top)


def _penalised(logits: Tensor, plan: Penalties) -> Tensor:
    # As exact as what follows: a penalty of bf16 logits would round ties into being.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    shape = (plan.rows, logits.shape[1])
    divide, subtract = logits.new_ones(shape), logits.new_zeros(shape)
    divide[plan.entry_row, plan.entry_id] = plan.divide.to(logits.dtype)
    subtract[plan.entry_row, plan.entry_id] = plan.subtract.to(logits.dtype)
    these, divide = logits[plan.mask], divide[plan.row]
    logits[plan.mask] = torch.where(these < 0, these * divide, these / divide) - subtract[plan.row]
    return logits


def _logprobs(logits: Tensor, draws: Sampling | None, mask_id: int | None) -> Tensor:
    """Of all tokens ``[m, vocab]``, at each row's temperature."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    if mask_id is not None:
        logits[:, mask_id] = -torch.inf
    if draws is not None:
        logits /= torch.where(draws.temperature > 0, draws.temperature, 1)[:, None].to(logits.dtype)
    return logits.log_softmax(-1)


def _draw_typical(probs: Tensor, plan: SamplingPlan) -> Tensor:
    """Draw from what top-k, top-p and typical-p leave, in TGI's order, of ``probs [t, vocab]``."""
    draws, rows, mass = plan.draws, plan.typical, plan.typical_p
    assert draws is not None
    assert mass is not None
    probs = kept(probs, draws.top_k[rows], draws.top_p[rows])
    probs = probs / probs.sum(-1, keepdim=True)
    surprise = -probs.log()
    distance = (surprise - torch.special.entr(probs).sum(-1, keepdim=True)).abs()
    _, order = distance.sort(dim=-1, stable=True)
    ordered = probs.gather(1, order)
    before = ordered.cumsum(-1) - ordered
    # The tokens whose surprise is nearest to the entropy (Meister et al. 2022) up to the one that reaches the mass.
    drop = before >= mass[:, None].to(probs.dtype)
    drop[:, 0] = False
    probs = probs.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), 0)
    cumulative = probs.cumsum(-1)
    target = draws.uniform[rows][:, None].to(probs.dtype) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding may put the target on the total. NaN keeps nothing, and any index will do.
    return torch.where(chosen < probs.shape[1], chosen, probs.argmax(-1))


def uniform(seed: Tensor, step: Tensor, position: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), a pure function of three int64 counters (SplitMix64, Steele et al. 2014)."""
    state = _mix(_mix(_mix(seed) + step) + position)
    return _shifted(state, 11).double() * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    # The constants of the method as signed numbers; products wrap.
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, filled with zeros."""
    return (x >> by) & ((1 << (64 - by)) - 1)
