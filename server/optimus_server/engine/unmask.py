"""Confidence of masked positions -> which of them commit.

All rules have one form: order a row's masks by some key, commit the first ``count``. So a step with any mixture of
rules is decided at once, on ``[rows, width]`` matrices (SDAR's rules; JetEngine's entropy bound):

    rule                     key               count
    low_confidence_dynamic   confidence        those strictly above the threshold, at least ``transfer``
    low_confidence_static    confidence        ``transfer``
    sequential               left to right     ``transfer``
    entropy_bounded          lowest entropy    as many as sum to less than the bound, at least one

Shifted logits have two blind spots, and two exceptions close them (figures in README.md beside this file):

* the first position of a block is *certain*. Its prediction comes from the block before, which cannot see what else the
  block decides, so waiting teaches it nothing, while the others can build on it;
* the mask one past the end of its row, the *edge*, is as uncertain as the least certain of its row, so it commits only
  with all the others. It is no key of this row: alone, it would be a decision that the masks before it cannot see.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optimus_server.engine.request import UNMASK_RULES

DYNAMIC, STATIC, SEQUENTIAL, ENTROPY = range(len(UNMASK_RULES))


@dataclass(frozen=True, slots=True)
class UnmaskPlan:
    """Unmasking parameters of ``r`` rows that offer ``m`` masks in all.

    Attributes:
        row, column: int64 ``[m]``, each mask's row and its place among that row's masks, left to right.
        certain, edge: bool ``[m]``, see above.
        rule: int64 ``[r]``, index into ``UNMASK_RULES``.
        transfer: int64 ``[r]``.
        threshold, entropy_bound: float64 ``[r]``.
        width: most masks any row offers.
    """

    row: Tensor
    column: Tensor
    certain: Tensor
    edge: Tensor
    rule: Tensor
    transfer: Tensor
    threshold: Tensor
    entropy_bound: Tensor
    width: int


def select(confidence: Tensor, entropy: Tensor | None, plan: UnmaskPlan) -> Tensor:
    """Which masks commit: bool ``[m]``, at least one in every row; ties go to the left.

    Example, one row, dynamic, threshold 0.9:

        confidence 0.95 0.3 0.92 -> True False True
        confidence 0.50 0.8 0.80 -> False True False
    """
    rule = plan.rule[plan.row]
    confidence = confidence.masked_fill(plan.certain, 1)
    key = torch.where(rule == SEQUENTIAL, -plan.column.to(confidence.dtype), confidence)
    if entropy is not None:
        key = torch.where(rule == ENTROPY, -entropy.masked_fill(plan.certain, 0), key)
    shape = (len(plan.rule), plan.width)
    least = key.new_full(shape[:1], torch.inf).scatter_reduce(0, plan.row, key, "amin")
    key = torch.where(plan.edge, least[plan.row], key)
    keys = key.new_full(shape, -torch.inf)
    keys[plan.row, plan.column] = key
    keys, order = keys.sort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(plan.width, device=order.device).expand(shape))

    above = (keys > plan.threshold[:, None]).sum(1).maximum(plan.transfer)
    count = torch.where(plan.rule == DYNAMIC, above, plan.transfer)
    if entropy is not None:
        below = ((-keys).cumsum(1) < plan.entropy_bound[:, None]).sum(1)
        count = torch.where(plan.rule == ENTROPY, below.clamp(min=1), count)
    return rank[plan.row, plan.column] < count[plan.row]
