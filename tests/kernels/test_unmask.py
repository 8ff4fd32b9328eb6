import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from optimus_kernels.slots import STOPS, Rows, Slots, Turns
from optimus_kernels.unmask.reference import unmask_reference
from tests.kernels.conftest import DEVICE

pytest.importorskip("triton")
from optimus_kernels.unmask.kernel import unmask_triton

UNMASK_RULES = ("low_confidence_dynamic", "low_confidence_static", "sequential", "entropy_bounded")
BLOCK, CANVAS, SPAN = 16, 64, 18


def one_row(confidence, rule, *, transfer=1, threshold=0.9, bound=0.35, entropy=None):
    return select_rows([(confidence, entropy or confidence, rule, transfer, threshold, bound)])[0]


def select_rows(rows, certain=(), edge=(), hidden=()):
    """rows of (confidence, entropy, rule, transfer, threshold, bound) -> the chosen columns of each.

    ``certain``, ``edge`` and ``hidden`` are columns, of all rows; the last are no masks.
    """
    found = [_select(unmask, rows, certain, edge, hidden) for unmask in (unmask_reference, unmask_triton)]
    assert found[0] == found[1]
    return found[0]


def _select(unmask, rows, certain, edge, hidden):
    counts = [len(row[0]) for row in rows]
    bounds = np.concatenate([[0], np.cumsum(counts)])
    frontier = 2 * BLOCK if 0 in certain else 2 * BLOCK + 1
    stops = [frontier + max(edge) if edge else frontier + count for count in counts]
    columns = np.concatenate([np.arange(count) for count in counts])

    def ints(*values):
        return torch.tensor(np.array(values), dtype=torch.int32, device=DEVICE)

    each = np.ones(len(rows), int)
    fields = ints(
        np.arange(len(rows)), each, 0 * each, -each, frontier * each, CANVAS * each, CANVAS * each, each,
        [UNMASK_RULES.index(row[2]) for row in rows], [row[3] for row in rows],
    )  # fmt: skip
    tokens = torch.full((len(rows), CANVAS), -1, dtype=torch.int32, device=DEVICE)
    tokens[:, :frontier] = 5
    slots = Slots(tokens, ints(*[(frontier - 1, 32, frontier, frontier, 0, 0)] * len(rows)))
    limits = torch.tensor([[row[4] for row in rows], [row[5] for row in rows]], dtype=torch.float64, device=DEVICE)
    turns = Turns(fields, limits, ints(*[[-1] * STOPS] * len(rows)), ints(*[[0]] * len(rows)))
    positions = np.where(np.isin(columns, list(hidden)), -1, frontier + columns)
    owner = torch.tensor(np.repeat(np.arange(len(rows)), counts), device=DEVICE)
    described = Rows(ints(*[frontier - 1] * len(rows)), ints(*stops), ints(*bounds), owner, ints(*positions), owner)
    flat = [
        torch.tensor([value for row in rows for value in row[i]], dtype=torch.float32, device=DEVICE) for i in (0, 1)
    ]
    chosen = unmask(
        slots, turns, described, torch.full_like(owner, 7), *flat, block_size=BLOCK, shift=int(bool(certain or edge)),
        span=SPAN,
    )  # fmt: skip
    return [part.nonzero()[:, 0].tolist() for part in chosen.split(counts)]


def truth(confidence, entropy, rule, transfer, threshold, bound):
    """The rules as sentences, one row at a time."""
    columns = range(len(confidence))
    if rule == "sequential":
        return list(columns)[:transfer]
    by_confidence = sorted(columns, key=lambda c: -confidence[c])
    if rule == "low_confidence_static":
        return sorted(by_confidence[:transfer])
    if rule == "low_confidence_dynamic":
        above = [c for c in columns if confidence[c] > threshold]
        return above if len(above) >= transfer else sorted(by_confidence[:transfer])
    chosen, total = [], 0.0
    for column in sorted(columns, key=lambda c: entropy[c]):
        total += entropy[column]
        if total >= bound and chosen:
            break
        chosen.append(column)
        if total >= bound:
            break
    return sorted(chosen)


def test_strictly_above_the_threshold():
    assert one_row([0.9, 0.95, 0.1], "low_confidence_dynamic") == [1]


def test_the_most_confident_if_none_is_above_ties_to_the_left():
    assert one_row([0.5, 0.8, 0.8], "low_confidence_dynamic") == [1]


def test_transfer_is_a_floor_for_dynamic_and_the_count_for_static():
    assert one_row([0.95, 0.1, 0.3], "low_confidence_dynamic", transfer=2) == [0, 2]
    assert one_row([0.95, 0.96, 0.97], "low_confidence_static", transfer=2) == [1, 2]
    assert one_row([0.1, 0.2], "sequential", transfer=5) == [0, 1]


def test_a_certain_mask_commits_under_every_rule():
    confidence = [0.1, 0.95, 0.92]
    for rule in UNMASK_RULES:
        for threshold in (0.9, 1.0):
            [chosen] = select_rows([(confidence, [2.0, 0.1, 0.2], rule, 1, threshold, 0.0)], certain={0})
            assert chosen[0] == 0
    [chosen] = select_rows([(confidence, confidence, "low_confidence_dynamic", 1, 0.93, 0.0)], certain={0})
    assert chosen == [0, 1]


def test_the_mask_past_the_rows_end_commits_only_with_all_others():
    for rule in UNMASK_RULES:
        confidence, entropy = [0.95, 0.2, 0.99], [0.1, 2.0, 0.01]
        [chosen] = select_rows([(confidence, entropy, rule, 1, 0.9, 0.5)], edge={2})
        assert chosen == [0]
    for confidence, expected in (([0.95, 0.92, 0.99], [0, 1, 2]), ([0.3, 0.2, 0.99], [0]), ([0.95, 0.95, 0.4], [0, 1])):
        [chosen] = select_rows([(confidence, confidence, "low_confidence_dynamic", 1, 0.9, 0.0)], edge={2})
        assert chosen == expected
    assert select_rows([([0.1], [3.0], rule, 1, 0.9, 0.0)], edge={0}) == [[0]]


def test_what_is_no_mask_neither_commits_nor_counts():
    confidence, entropy = [0.99, 0.2, 0.3], [0.0, 1.0, 0.1]
    assert select_rows([(confidence, entropy, "low_confidence_dynamic", 2, 0.9, 0.0)], hidden={0}) == [[1, 2]]
    assert select_rows([(confidence, entropy, "entropy_bounded", 1, 0.9, 0.5)], hidden={0}) == [[2]]
    assert select_rows([([0.99], [0.0], "low_confidence_static", 3, 0.9, 0.5)], hidden={0}) == [[]]


values = st.integers(0, 16).map(lambda k: k / 16)


@st.composite
def row(draw):
    size = draw(st.integers(1, 9))
    confidence = draw(st.lists(values, min_size=size, max_size=size))
    entropy = draw(st.lists(values, min_size=size, max_size=size))
    return (
        confidence,
        entropy,
        draw(st.sampled_from(UNMASK_RULES)),
        draw(st.integers(1, 4)),
        draw(values),
        draw(values),
    )


@given(st.lists(row(), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_mixture_of_rules_equals_the_sentences(rows):
    assert select_rows(rows) == [truth(*row) for row in rows]
