"""The layout kernel against its reference; ``tests/engine/test_batch.py`` has the reference against the policies."""

import numpy as np
import pytest
import torch

from optimus_kernels.layout.reference import lay_out_reference
from optimus_kernels.paged_attention import AttentionPlan, Room
from optimus_kernels.slots import POLICIES, STOPS, Slots, Turns
from optimus_kernels.unmask.reference import unmask_reference
from tests.kernels.conftest import DEVICE

pytest.importorskip("triton")
from optimus_kernels.layout.kernel import lay_out_triton
from optimus_kernels.unmask.kernel import unmask_triton

BLOCK, PAGE, SLOTS, CANVAS, SPAN = 8, 4, 90, 64, 18


def ints(values):
    return torch.tensor(np.array(values), dtype=torch.int32, device=DEVICE)


def state(rng, count, shift):
    """Requests anywhere in their lives, some of which have ended, in slots without order."""
    tokens, lengths = np.full((SLOTS, CANVAS), -1), np.zeros((SLOTS, 6), int)
    slots, fields = rng.permutation(SLOTS)[:count], []
    for slot in slots:
        known = int(rng.integers(1, 40))
        canvas = min(CANVAS, known // BLOCK * BLOCK + BLOCK * int(rng.integers(1, 4)))
        frontier = int(rng.integers(known, canvas))
        cached = int(rng.integers(max(0, frontier - 10), frontier - shift + 1))
        exact = cached // BLOCK * BLOCK
        drawn = int(rng.integers(cached, canvas))
        tokens[slot, :frontier] = rng.integers(0, 50, frontier)
        ahead = rng.integers(frontier, canvas, 5)
        tokens[slot, ahead] = 3
        tokens[slot, frontier] = -1
        policy = int(rng.choice(POLICIES))
        if policy == 0:
            cached = exact
        lengths[slot] = cached, exact, drawn, frontier, int(rng.integers(0, 9)), rng.random() < 0.1
        cut = exact + BLOCK if rng.random() < 0.2 and exact + BLOCK <= known - shift else -1
        fields.append(
            (slot, rng.integers(1, 17), rng.integers(0, 2), cut, known, canvas - rng.integers(0, 8), canvas, policy,
             rng.integers(0, 4), rng.integers(1, 4))
        )  # fmt: skip
    turns = Turns(
        fields=ints(fields).T.contiguous(),
        limits=torch.tensor(rng.random((2, count)), device=DEVICE),
        stops=ints(rng.choice([-1, 3, 9, 11], (count, STOPS))),
        tables=ints(rng.integers(0, 500, (count, CANVAS // PAGE))),
    )
    return Slots(ints(tokens), ints(lengths)), turns


def copied(slots):
    return Slots(slots.tokens.clone(), slots.lengths.clone())


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("count", "rows"), [(5, 5), (3, 4), (40, 64), (70, 128)])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_kernels_equal_their_references(shift, count, rows, share):
    rng = np.random.default_rng(count + shift)
    slots, turns = state(rng, count, shift)
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
