"""The public function: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.layout.reference import lay_out_reference
from optimus_kernels.paged_attention import AttentionPlan
from optimus_kernels.slots import Rows, Slots, Turns


def lay_out(
    slots: Slots, turns: Turns, places: Tensor, plan: AttentionPlan, *, masks: int, shift: int, mask_id: int
) -> Rows:
    """Make a row of each turn, and lay the rows out one after the other.

    Rows are those of the engine's policies. What is left of the room when a row does not fit stays empty: that row and
    all behind it have no positions in this step.

    Args:
        places: int64 ``[2, n]``, becomes the ids and the positions of the step.
        plan: becomes who sees whom and where KV is written; has room for ``n`` positions and all rows.
        masks: how many masks there is room for.
        shift: of the logits, 0 or 1: the output at ``p - shift`` predicts ``p``.
        mask_id: what a mask is to the model.

    Example: two requests, cached 4 and frontier 6, cached 0 and frontier 2; chunks of 3, blocks of 8, no shift::

        rows [4, 7) [0, 3)    positions 4 5 6 0 1 2    masks at 6 2    predicted by the step's positions 2 5
    """
    if places.is_cuda:
        from optimus_kernels.layout.kernel import lay_out_triton

        return lay_out_triton(slots, turns, places, plan, masks=masks, shift=shift, mask_id=mask_id)
    return lay_out_reference(slots, turns, places, plan, masks=masks, shift=shift, mask_id=mask_id)
