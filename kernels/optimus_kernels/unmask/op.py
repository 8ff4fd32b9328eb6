"""Which masks commit, and how requests move on; the one place where the device chooses the implementation.

All rules have one form: order a row's masks by some key, commit the first ``count``. So a step with any mixture of
rules is decided at once (SDAR's rules; JetEngine's entropy bound):

    rule                     key               count
    low_confidence_dynamic   confidence        those strictly above the threshold, at least ``transfer``
    low_confidence_static    confidence        ``transfer``
    sequential               left to right     ``transfer``
    entropy_bounded          lowest entropy    as many as sum to less than the bound, at least one

Shifted logits have two blind spots, and two exceptions close them (figures in the engine's README.md):

* the first position of a block is *certain*. Its prediction comes from the block before, which cannot see what else the
  block decides, so waiting teaches it nothing, while the others can build on it;
* the mask one past the end of its row, the *edge*, is as uncertain as the least certain of its row, so it commits only
  with all the others. It is no key of this row: alone, it would be a decision that the masks before it cannot see.
"""

from torch import Tensor

from optimus_kernels.slots import Rows, Slots, Turns
from optimus_kernels.unmask.reference import unmask_reference


def unmask(
    slots: Slots,
    turns: Turns,
    rows: Rows,
    token: Tensor,
    confidence: Tensor,
    entropy: Tensor | None,
    *,
    block_size: int,
    shift: int,
    span: int,
) -> Tensor:
    """Decide which masks of a step commit, ties to the left, and move the tokens and lengths of its requests on.

    Example, one row, dynamic, threshold 0.9::

        confidence 0.95 0.3 0.92 -> True False True
        confidence 0.50 0.8 0.80 -> False True False

    Args:
        token: int64 ``[m]``, what each mask becomes if it commits.
        confidence, entropy: ``[m]``; entropies only if a rule asks for them.
        span: no request has committed anything so many positions beyond its frontier, nor can it in this step.

    Returns:
        bool ``[m]``; at least one in every row that has a mask which can be predicted.
    """
    if token.is_cuda:
        from optimus_kernels.unmask.kernel import unmask_triton

        return unmask_triton(
            slots, turns, rows, token, confidence, entropy, block_size=block_size, shift=shift, span=span
        )
    return unmask_reference(
        slots, turns, rows, token, confidence, entropy, block_size=block_size, shift=shift, span=span
    )
