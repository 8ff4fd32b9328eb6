"""The model's forward as CUDA graphs, one for each room that steps are padded to.

Launching the hundreds of kernels of a large model takes the host several milliseconds, longer than a GPU needs for a
small step; replaying a recorded forward takes microseconds. A recording has fixed shapes and addresses, so a step is
padded to the next larger room and copied there. Rooms lie closer, relatively, where positions cost the most; the
largest steps keep the GPU busy for longer than their launch takes and need no recording.

What follows the forward (head, choice of tokens, unmasking) is launched as usual while the forward runs, so that no
request's parameters need a recording of their own.
"""

import gc
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from optimus_kernels.paged_attention import AttentionPlan, Room
from optimus_server.models.config import ModelConfig

Forward = Callable[[Tensor, Tensor, AttentionPlan], Tensor]
"""(ids [n], positions [n], plan) -> [n, hidden]."""

LARGEST = 1024
"""Positions. A step of more computes for longer than its launch takes."""
POSITIONS = (1, 2, 4, 8, *range(16, 129, 16), *range(160, LARGEST + 1, 32))
ROWS = (1, 4, 16, 64, 256, 1024)
"""Surplus rows cost the attention next to nothing, but it splits long contexts by how many rows there may be."""
TOKENS = (1024, 4096)
"""Contexts; beyond the last, the longest that the model takes."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """What the forward of a step reads: ids and positions int64 ``[2, n]``, and the plan of its attention."""

    places: Tensor
    plan: AttentionPlan


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Where a step of one room is laid out, and what runs it."""

    buffers: Buffers
    replay: Callable[[], None]


class StepGraphs:
    """Recorded forwards.

    On a CPU nothing can be recorded, but the same buffers are filled and the same padded shapes run.

    Args:
        pages, page_size: pages that one request may have, positions that a page holds.
        max_rows, max_positions: of the largest step to come.

    Attributes:
        positions: of the rooms, ascending.
    """

    def __init__(
        self,
        forward: Forward,
        config: ModelConfig,
        *,
        pages: int,
        page_size: int,
        max_rows: int,
        max_positions: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._forward = forward
        self._block_size = config.block_size
        self._page_size = page_size
        self._device = device
        self.positions = _ladder(POSITIONS, min(max_positions, LARGEST))
        self._rows = _ladder(ROWS, max_rows)
        self._pages = _ladder((-(-tokens // page_size) for tokens in TOKENS), pages)
        self._hidden = torch.empty(self.positions[-1], config.hidden_size, device=device, dtype=dtype)
        self._recorded: dict[Room, _Recorded] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def fit(self, needed: Room) -> Room | None:
        """The smallest recorded room for a step, if there is one."""
        ladders = (self._rows, self.positions, self._pages)
        if any(need > ladder[-1] for need, ladder in zip(needed, ladders, strict=True)):
            return None
        room = Room(*(ladder[bisect_left(ladder, need)] for need, ladder in zip(needed, ladders, strict=True)))
        return room if room in self._recorded else None

    @torch.inference_mode()
    def record(self, progress: Callable[[float], None]) -> None:
        """Record every room, the largest first: the others then find memory enough in what it has taken."""
        rooms = [
            Room(rows, positions, pages)
            for positions in reversed(self.positions)
            for fewer, rows in pairwise([0, *self._rows])
            # A row has a position at least, so steps of so many rows have more positions than there are fewer rows.
            if positions > fewer
            for pages in self._pages
        ]
        pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        # Recordings that nobody needs any more must not be freed while another one is made.
        gc.collect()
        gc.disable()
        try:
            for number, room in enumerate(rooms):
                self._recorded[room] = self._record(room, pool)
                progress((number + 1) / len(rooms))
        finally:
            gc.enable()

    def buffers(self, room: Room) -> Buffers:
        """Where a step is to be laid out before it runs in a recorded room."""
        return self._recorded[room].buffers

    def run(self, room: Room) -> Tensor:
        """[n, hidden] of the step in the buffers of ``room``; valid until the next one runs."""
        self._recorded[room].replay()
        return self._hidden[: room.positions]

    def _record(self, room: Room, pool: Any) -> _Recorded:
        # Rows without positions, positions without slots: recording writes nowhere.
        places = torch.zeros(2, room.positions, dtype=torch.int64, device=self._device)
        sizes = {"block_size": self._block_size, "page_size": self._page_size}
        bounds = {"width": room.positions, "reach": room.pages * self._page_size}
        plan = AttentionPlan.empty(room, **sizes, **bounds, device=self._device)
        hidden = self._hidden[: room.positions]

        def run() -> None:
            # Another object each time: the torch reference keeps what it works out in it.
            again = AttentionPlan.over(plan.packed, room, **sizes, **bounds)
            hidden.copy_(self._forward(places[0], places[1], again))

        if pool is None:
            return _Recorded(Buffers(places, plan), run)
        # Compiles what is not compiled yet, which a recording must not.
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            run()
        return _Recorded(Buffers(places, plan), graph.replay)


def _ladder(rungs: Iterable[int], largest: int) -> list[int]:
    """Those below the largest, and the largest."""
    return [*sorted({rung for rung in rungs if rung < largest}), largest]
