"""A plan's rows as padded groups: the gathers and masks of the torch reference.

These index tensors grow with the context, which a CPU does not mind; the kernel needs none of them.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Rows whose key counts differ by more than a factor of two are not padded to each other, except below this
# count, where one more call costs more than the padding.
_SMALL_SPAN = 512

_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RowGroup:
    """Rows that run as one padded attention call of ``rows x width`` queries and ``rows x span`` keys.

    Attributes:
        queries: LongTensor [rows * width], index of each padded query in the step's flat positions; short
            rows repeat their last query. None when the group is the whole step without padding.
        keys: LongTensor [rows * span], flat cache slot of each padded key; short rows repeat their first key,
            so that only slots that have been written are ever read.
        mask: BoolTensor, True where a query sees a key: [rows, 1, width, span], or [rows, 1, 1, span] when
            all queries of a row see the same keys, or None when every query sees all ``span`` keys.
        uniform: whether all queries of a row see the same keys.
    """

    rows: int
    width: int
    span: int
    queries: Tensor | None
    keys: Tensor
    mask: Tensor | None
    uniform: bool


@dataclass(frozen=True)
class PaddedGroups:
    """The padded calls that cover all rows of a step.

    Attributes:
        restore: LongTensor [n], where each position's output lies in the groups' concatenated outputs; None
            when they are already in order.
    """

    groups: tuple[RowGroup, ...]
    restore: Tensor | None


@dataclass(frozen=True)
class _Row:
    """One row on the host: queries [start, stop), where they begin in the step, and the slots of its keys."""

    start: int
    stop: int
    offset: int
    key_slots: _Ints
    uniform: bool

    @property
    def width(self) -> int:
        return self.stop - self.start


def pad_rows(
    first: Tensor,
    starts: Tensor,
    visible: Tensor,
    tables: Tensor,
    *,
    positions: int,
    block_size: int,
    page_size: int,
) -> PaddedGroups:
    """Sort rows of similar width and length into groups; arguments as in AttentionPlan, of n ``positions``."""
    device = first.device
    bounds = first.tolist()
    host_tables = tables.cpu().numpy().astype(np.int64)
    rows: list[_Row] = []
    for i, (start, end) in enumerate(zip(starts.tolist(), visible.tolist(), strict=True)):
        stop = start + bounds[i + 1] - bounds[i]
        if start == stop:
            continue
        seen_by_last = min(end, _block_end(stop - 1, block_size))
        pages = host_tables[i, : -(-seen_by_last // page_size)]
        key_slots = (pages[:, None] * page_size + np.arange(page_size)).reshape(-1)[:seen_by_last]
        rows.append(_Row(start, stop, bounds[i], key_slots, seen_by_last <= _block_end(start, block_size)))

    buckets: dict[tuple[int, int, bool], list[_Row]] = defaultdict(list)
    for row in rows:
        span = max(_SMALL_SPAN, _next_power_of_two(len(row.key_slots)))
        buckets[_next_power_of_two(row.width), span, row.uniform].append(row)

    # surplus positions take any output
    restore = np.zeros(positions, dtype=np.int64)
    base = 0
    groups: list[RowGroup] = []
    for members in buckets.values():
        width = max(row.width for row in members)
        for row in members:
            restore[row.offset : row.offset + row.width] = np.arange(base, base + row.width)
            base += width
        in_order = len(buckets) == 1 and len(members) * width == positions == bounds[-1]
        groups.append(_group(members, width, block_size, in_order=in_order, device=device))
    whole = len(groups) == 1 and groups[0].queries is None
    return PaddedGroups(tuple(groups), None if whole else _to(restore, device))


def _group(members: list[_Row], width: int, block_size: int, *, in_order: bool, device: torch.device) -> RowGroup:
    span = max(len(row.key_slots) for row in members)
    uniform = members[0].uniform
    # [rows, width]: each padded query's place in its row
    places = np.minimum(np.arange(width), np.array([[row.width - 1] for row in members]))
    offsets = np.array([[row.offset] for row in members])
    lengths = np.array([len(row.key_slots) for row in members])
    keys = np.empty((len(members), span), dtype=np.int64)
    for padded, row in zip(keys, members, strict=True):
        padded[: len(row.key_slots)] = row.key_slots
        padded[len(row.key_slots) :] = row.key_slots[0]

    mask: NDArray[np.bool_] | None = None
    if not uniform:
        positions = np.array([[row.start] for row in members]) + places
        # [rows, width]: the number of keys each query sees
        seen = np.minimum((positions // block_size + 1) * block_size, lengths[:, None])
        mask = np.arange(span) < seen[:, None, :, None]
    elif lengths.min() < span:
        mask = np.arange(span) < lengths[:, None, None, None]
    return RowGroup(
        rows=len(members),
        width=width,
        span=span,
        queries=None if in_order else _to((offsets + places).reshape(-1), device),
        keys=_to(keys.reshape(-1), device),
        mask=None if mask is None else _to(mask, device),
        uniform=uniform,
    )


def _block_end(position: int, block_size: int) -> int:
    return (position // block_size + 1) * block_size


def _next_power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _to(array: NDArray[np.int64] | NDArray[np.bool_], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
