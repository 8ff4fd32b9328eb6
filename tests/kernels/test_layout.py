"""The layout kernel against its reference; ``tests/engine/test_batch.py`` has the reference against the policies."""

import numpy as np
import pytest
import torch

from optimus_kernels.layout.reference import lay_out_reference
from optimus_kernels.paged_attention import AttentionPlan, Room
from optimus_kernels.slots import Slots
from optimus_kernels.unmask.reference import unmask_reference
from tests.kernels.conftest import DEVICE

pytest.importorskip("triton")
from optimus_kernels.bench.steps import mixture
from optimus_kernels.layout.kernel import lay_out_triton
from optimus_kernels.unmask.kernel import unmask_triton

BLOCK, PAGE, CANVAS = 8, 4, 64


def copied(slots):
    return Slots(slots.tokens.clone(), slots.lengths.clone())


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("count", "rows"), [(5, 5), (3, 4), (40, 64), (70, 128)])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_kernels_equal_their_references(shift, count, rows, share):
    rng = np.random.default_rng(count + shift)
    slots, turns = mixture(rng, count, shift, block=BLOCK, page=PAGE, canvas=CANVAS)
    n, masks = int(count * 12 * share) + 3, int(count * 9 * share) + 2
    token = torch.tensor(rng.integers(0, 12, masks), device=DEVICE)
    confidence, entropy = torch.tensor(rng.integers(0, 9, (2, masks)) / 8, dtype=torch.float32, device=DEVICE)
    told = []
    for lay_out, unmask in ((lay_out_reference, unmask_reference), (lay_out_triton, unmask_triton)):
        mine = copied(slots)
        plan = AttentionPlan.empty(
            Room(rows, n, CANVAS // PAGE + 1), block_size=BLOCK, page_size=PAGE, width=n, reach=CANVAS, device=DEVICE
        )
        places = torch.full((2, n), 77, dtype=torch.int64, device=DEVICE)
        made = lay_out(mine, turns, places, plan, masks=masks, shift=shift, mask_id=60)
        chosen = unmask(
            mine, turns, made, token, confidence, entropy, block_size=BLOCK, shift=shift, span=2 * BLOCK + 2
        )
        told.append((places, plan, made, chosen & (made.positions >= 0), mine))
    (places, plan, made, chosen, after), (places_, plan_, made_, chosen_, after_) = told
    assert torch.equal(places, places_)
    for name in ("first", "starts", "visible", "slots"):
        assert torch.equal(getattr(plan, name), getattr(plan_, name)), name
    for name in ("starts", "stops", "bounds", "positions", "predictors"):
        assert torch.equal(getattr(made, name), getattr(made_, name)), name
    masked = made.positions >= 0
    assert torch.equal(made.owner[masked], made_.owner[masked])
    assert torch.equal(chosen, chosen_)
    assert torch.equal(after.tokens, after_.tokens)
    assert torch.equal(after.lengths, after_.lengths)
    assert masked.any()
    assert chosen.any()
    if share < 1 and count > 5:
        assert int(plan.first[-1]) <= n
        assert (made.starts == made.stops).sum() > (slots.lengths[turns.fields[0].long(), 5] > 0).sum()
