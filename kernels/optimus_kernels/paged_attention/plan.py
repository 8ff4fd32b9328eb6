"""What one step's attention reads and writes: a few numbers a row, which the kernel turns into addresses on the device.

Everything is int32 and has a shape that the host knows in advance, so that a CUDA graph can keep a plan in static
buffers: surplus rows have no positions, surplus positions have slot -1, and ``width`` and ``reach`` are upper bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from optimus_kernels.paged_attention.groups import PaddedGroups, pad_rows


class Room(NamedTuple):
    """What a plan has room for: rows, positions of all rows together, and pages a row."""

    rows: int
    positions: int
    pages: int


@dataclass(frozen=True)
class AttentionPlan:
    """One step's rows.

    Attributes:
        packed: int32, the memory of all tensors below; copying another plan of the same room into it replaces them all.
        first: int32 [rows + 1], where each row's positions begin among the step's ``n``, and where the last ends.
        starts: int32 [rows], each row's first position.
        visible: int32 [rows], keys from here on are seen by none of the row's queries.
        tables: int32 [rows, pages], each row's page ids in order of position; ids that no visible key needs may be
            anything.
        slots: int32 [n], flat cache slot (page * page_size + offset) of each position's K and V; -1 is nowhere.
        width, reach: no row has more positions, no row sees more keys.
    """

    packed: Tensor
    first: Tensor
    starts: Tensor
    visible: Tensor
    tables: Tensor
    slots: Tensor
    block_size: int
    page_size: int
    width: int
    reach: int

    @classmethod
    def over(
        cls, packed: Tensor, room: Room, *, block_size: int, page_size: int, width: int, reach: int
    ) -> "AttentionPlan":
        """The plan that ``packed`` holds."""
        rows, positions, pages = room
        ends = accumulate((0, rows + 1, rows, rows, rows * pages, positions))
        first, starts, visible, tables, slots = (packed[begin:end] for begin, end in pairwise(ends))
        return cls(packed, first, starts, visible, tables.view(rows, pages), slots, block_size, page_size, width, reach)

    @classmethod
    def empty(
        cls, room: Room, *, block_size: int, page_size: int, width: int, reach: int, device: torch.device | str
    ) -> "AttentionPlan":
        """A plan of rows without positions, and of positions without slots, to be filled on the device."""
        rows, positions, pages = room
        packed = torch.zeros(3 * rows + 1 + rows * pages + positions, dtype=torch.int32, device=device)
        packed[-positions:] = -1
        return cls.over(packed, room, block_size=block_size, page_size=page_size, width=width, reach=reach)

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
    device: torch.device | str = "cpu",
    room: Room | None = None,
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
        room: sizes of the tensors, where they must not depend on the rows; then neither do ``width`` and ``reach``.

    Raises:
        ValueError: no rows, an empty row, ``visible < stop``, a page table shorter than ``visible``, or rows that do
            not fit the room.
    """
    if not starts:
        raise ValueError("a step needs at least one row")
    origins, ends, seen = (np.asarray(each, dtype=np.int32) for each in (starts, stops, visibles))
    widths, lengths = ends - origins, np.array([len(table) for table in page_tables])
    if (bad := (origins < 0) | (widths <= 0) | (seen < ends)).any():
        row = int(bad.argmax())
        raise ValueError(f"a row needs 0 <= start < stop <= visible, got {starts[row]}, {stops[row]}, {visibles[row]}")
    if (bad := lengths * page_size < seen).any():
        row = int(bad.argmax())
        raise ValueError(f"{lengths[row]} pages of {page_size} cannot hold {visibles[row]} visible positions")
    rows, n, reach = len(starts), int(widths.sum()), int(seen.max())
    needed = Room(rows, n, -(-reach // page_size))
    if room is not None and any(have < need for have, need in zip(room, needed, strict=True)):
        raise ValueError(f"{needed} does not fit {room}")
    size = room or needed

    first = np.full(size.rows + 1, n, dtype=np.int32)
    first[0] = 0
    np.cumsum(widths[:-1], out=first[1:rows])
    tables = np.zeros((size.rows, size.pages), dtype=np.int32)
    for padded, table in zip(tables, page_tables, strict=False):
        used = table[: needed.pages]
        padded[: len(used)] = used
    # [n]: each position's row and its place in the sequence
    owner = np.repeat(np.arange(rows), widths)
    position = np.arange(n, dtype=np.int32) + (origins - first[:rows])[owner]
    slots = np.full(size.positions, -1, dtype=np.int32)
    slots[:n] = tables[owner, position // page_size] * page_size + position % page_size

    surplus = np.zeros(size.rows - rows, dtype=np.int32)
    packed = np.concatenate([first, origins, surplus, seen, surplus, tables.reshape(-1), slots])
    return AttentionPlan.over(
        torch.from_numpy(packed).to(device),
        size,
        block_size=block_size,
        page_size=page_size,
        width=int(widths.max()) if room is None else room.positions,
        reach=reach if room is None else room.pages * page_size,
    )
