"""One forward of the engine: rows of requests, and what the host knows about them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.request import Request
from optimus_server.engine.telemetry import Decision

Ints = NDArray[np.int64]


# Not frozen: the engine makes one for every row of every step, and freezing triples what that costs.
@dataclass(slots=True)
class Row:
    """One request's contiguous range ``[start, stop)`` in one step.

    Attributes:
        visible: its queries see keys below this position (and not beyond their own block); equal to ``stop``
            unless masks to the right were left visible by an earlier row (policy ``stale``).
    """

    request: Request
    start: int
    stop: int
    visible: int

    @property
    def width(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Step:
    """One forward of the engine: its rows, row by row the page tables that hold their KV, and why it is like that."""

    rows: tuple[Row, ...]
    tables: tuple[list[int], ...]
    decision: Decision


def candidates(rows: Sequence[Row]) -> tuple[Ints, Ints]:
    """The masks that rows of one model predict, row by row, ascending: positions, and the row of each.

    The output at ``p - shift`` predicts ``p``. With shift, the first position of a block is predicted by the last one
    of the block before it, which says something only once that block is known:

        B = 4, frontier 8, row [7, 10), shift 1 -> 8 9 10      (7 is known, so 8 may be offered)
        B = 4, frontier 6, row [5, 8),  shift 1 -> 6 7         (8 hangs on the mask at 7)
    """
    shift, block_size = rows[0].request.shift, rows[0].request.block_size
    # Per row the window that holds its masks, [first, last); the loop over rows is all that grows with them.
    first = [max(row.start + shift, row.request.frontier) for row in rows]
    windows = [row.request.committed[a : row.stop + shift] for a, row in zip(first, rows, strict=True)]
    lengths = [len(window) for window in windows]
    places = np.flatnonzero(~np.concatenate(windows))
    owner = np.repeat(np.arange(len(rows)), lengths)[places]
    positions: Ints = places + (np.array(first) - np.cumsum(lengths) + lengths)[owner]
    if shift:
        frontier = np.array([row.request.frontier for row in rows])
        known = (positions % block_size != 0) | (positions == frontier[owner])
        positions, owner = positions[known], owner[known]
    return positions, owner
