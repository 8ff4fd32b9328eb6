"""One forward of the engine: rows of requests, and what the host knows about them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.request import Request
from optimus_server.engine.telemetry import Decision


@dataclass(frozen=True, slots=True)
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

    def candidates(self) -> NDArray[np.int64]:
        """Masked positions this row predicts, ascending; the output at ``p - shift`` predicts ``p``.

        With shift, the first position of a block is predicted by the last one of the block before it, which
        says something only once that block is known:

            B = 4, frontier 8, row [7, 10), shift 1 -> 8 9 10      (7 is known, so 8 may be offered)
            B = 4, frontier 6, row [5, 8),  shift 1 -> 6 7         (8 hangs on the mask at 7)
        """
        request = self.request
        first = max(self.start + request.shift, request.frontier)
        last = min(self.stop + request.shift, request.canvas)
        masked = first + np.flatnonzero(~request.committed[first:last])
        if request.shift:
            masked = masked[(masked % request.block_size != 0) | (masked == request.frontier)]
        return masked


@dataclass(frozen=True, slots=True)
class Step:
    """One forward of the engine: its rows, row by row the page tables that hold their KV, and why it is like that."""

    rows: tuple[Row, ...]
    tables: tuple[list[int], ...]
    decision: Decision
