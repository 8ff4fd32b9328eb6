"""What one step's attention reads and writes: a few numbers a row, which the kernel turns into addresses on the device.

Everything is int32 and has a shape that the host knows in advance, so that a CUDA graph can keep a plan in static
buffers: surplus rows have no positions, surplus positions have slot -1, and ``width`` and ``reach`` are upper bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from optimus_kernels.paged_attention.groups import PaddedGroups, pad_rows


@dataclass(frozen=True)
class AttentionPlan:
    """One step's rows.

    Attributes:
        first: int32 [rows + 1], where each row's positions begin among the step's ``n``, and where the last ends.
        starts: int32 [rows], each row's first position.
        visible: int32 [rows], keys from here on are seen by none of the row's queries.
        tables: int32 [rows, pages], each row's page ids in order of position; ids that no visible key needs may be
            anything.
        slots: int32 [n], flat cache slot (page * page_size + offset) of each position's K and V; -1 is nowhere.
        width, reach: no row has more positions, no row sees more keys.
    """

    first: Tensor
    starts: Tensor
    visible: Tensor
    tables: Tensor
    slots: Tensor
    block_size: int
    page_size: int
    width: int
    reach: int

    @cached_property
    def padded(self) -> PaddedGroups:
        """The index tensors of the torch reference, worked out once for all layers."""
        return pad_rows(
            self.first,
            self.starts,
            self.visible,
            self.tables,
            positions=len(self.slots),
            block_size=self.block_size,
            page_size=self.page_size,
        )


def plan_attention(
    starts: Sequence[int],
    stops: Sequence[int],
    visibles: Sequence[int],
    page_tables: Sequence[Sequence[int]],
    *,
    block_size: int,
    page_size: int,
    device: torch.device | str,
) -> AttentionPlan:
    """Plan one step over rows of queries ``[start, stop)``.

    Query q of a row sees key k of the same row iff ``k // block_size <= q // block_size and k < visible``::

        block_size 4, start 2, stop 6, visible 6      k = 012345
                                                q = 2     1111..
                                                q = 3     1111..
                                                q = 4     111111
                                                q = 5     111111

    Args:
        starts, stops, visibles: per row, in positions; ``start < stop <= visible``. Keys in ``[0, start)``
            and ``[stop, visible)`` must have been written by earlier steps.
        page_tables: per row, its page ids in order of position; may be longer than needed.
        block_size: positions that see each other both ways; 1 is causal attention.
        page_size: positions per page.
        device: where the plan's tensors go, in one copy.

    Raises:
        ValueError: no rows, an empty row, ``visible < stop``, or a page table shorter than ``visible``.
    """
    for start, stop, visible, table in zip(starts, stops, visibles, page_tables, strict=True):
        if not 0 <= start < stop <= visible:
            raise ValueError(f"a row needs 0 <= start < stop <= visible, got {start}, {stop}, {visible}")
        if len(table) * page_size < visible:
            raise ValueError(f"{len(table)} pages of {page_size} cannot hold {visible} visible positions")
    if not starts:
        raise ValueError("a step needs at least one row")

    rows, reach = len(starts), max(visibles)
    origins = np.asarray(starts, dtype=np.int32)
    widths = np.asarray(stops, dtype=np.int32) - origins
    first = np.concatenate([np.zeros(1, np.int32), widths.cumsum(dtype=np.int32)])
    tables = np.zeros((rows, -(-reach // page_size)), dtype=np.int32)
    for padded, table in zip(tables, page_tables, strict=True):
        used = table[: len(padded)]
        padded[: len(used)] = used
    # [n]: each position's row and its place in the sequence
    owner = np.repeat(np.arange(rows), widths)
    position = np.arange(first[-1], dtype=np.int32) - first[owner] + origins[owner]
    slots = tables[owner, position // page_size] * page_size + position % page_size

    parts = [first, origins, np.asarray(visibles, dtype=np.int32), tables.reshape(-1), slots]
    packed = torch.from_numpy(np.concatenate(parts)).to(device, non_blocking=True)
    ends = np.cumsum([0] + [len(part) for part in parts]).tolist()
    on_device = [packed[begin:end] for begin, end in pairwise(ends)]
    return AttentionPlan(
        first=on_device[0],
        starts=on_device[1],
        visible=on_device[2],
        tables=on_device[3].view(tables.shape),
        slots=on_device[4],
        block_size=block_size,
        page_size=page_size,
        width=int(widths.max()),
        reach=reach,
    )
