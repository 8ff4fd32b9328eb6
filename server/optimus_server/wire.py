"""How requests and steps travel between the server and an engine in another process: in what pickles fast."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimus_server.engine.request import NOTHING, Params, Request
from optimus_server.engine.telemetry import RowTrace, StepTrace


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it travels: its arrays are made again where it arrives."""

    id: str
    ids: tuple[int, ...]
    params: Params
    block_size: int
    shift: int
    created: float

    @classmethod
    def of(cls, request: Request) -> "Asked":
        ids = tuple(request.tokens[: request.prompt_len].tolist())
        return cls(request.id, ids, request.params, request.block_size, request.shift, request.created)

    def request(self) -> Request:
        request = Request(self.id, self.ids, self.params, block_size=self.block_size, shift=self.shift)
        # All processes of a machine have the same clock.
        request.created = self.created
        return request


def packed(trace: StepTrace) -> tuple[Any, ...]:
    """A trace with what its rows commit in three lists: pickling hundreds of small arrays would take too long."""
    commits: list[Any] = [row.commits for row in trace.rows]
    positions, ids, logprobs = (
        np.concatenate([getattr(one, name) for one in (NOTHING, *commits)]) for name in ("positions", "ids", "logprobs")
    )
    columns = positions.tolist(), ids.tolist(), np.exp(logprobs).round(4).tolist()
    rows = [(*row._replace(commits=len(row.commits)),) for row in trace.rows]  # type: ignore[arg-type]
    return trace.number, trace.at, trace.observed_s, trace.decision, rows, columns


def unpacked(parts: tuple[Any, ...]) -> StepTrace:
    """The inverse of ``packed``; commits are tuples, as whoever reads them wants them."""
    number, at, observed_s, decision, rows, columns = parts
    commits = zip(*columns, strict=True)
    traced = tuple(
        RowTrace(name, step, start, stop, chunk, masks, tuple(itertools.islice(commits, count)), frontier, advance)
        for name, step, start, stop, chunk, masks, count, frontier, advance in rows
    )
    return StepTrace(number, at, observed_s, decision, traced)
