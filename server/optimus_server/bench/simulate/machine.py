"""A simulated device: a clock of its own, with a latency table for step times and replayed commits for a model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optimus_server.bench.simulate.recording import BLOCK, Recording
from optimus_server.engine.elastic.latency import LatencyModel, Profile
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import NOTHING, Commits, Request
from optimus_server.engine.step import Landed, Row, Step, Turn
from optimus_server.engine.telemetry import Decision


class Machine:
    """Runs steps in simulated time (a ``StepRunner``).

    Args:
        table: true step times.
        block_size, shift: of the model.
        noise: standard deviation of the logarithm of a step's time.
        ahead: whether a step may be launched before the one before is over.
    """

    def __init__(
        self, recording: Recording, table: Profile, *, block_size: int, shift: int, noise: float, ahead: bool, seed: int
    ) -> None:
        self.now, self.ahead = 0.0, ahead
        config = SimpleNamespace(block_size=block_size, logit_shift=shift, max_position_embeddings=1 << 20)
        self.config = cast(Any, config)
        self._truth = LatencyModel(table)
        self._noise, self._rng = noise, np.random.default_rng(seed)
        self._courses = recording.courses
        self._cycles = [recording.cycle(source) for source in range(len(recording.tasks))]
        self._nearest: dict[int, int] = {}
        self.decisions: list[Decision] = []

    def launch(self, step: Step) -> Callable[[], Landed]:
        """What each row commits is what was committed at this place of the recording."""
        return lambda: self._run(step)

    def _run(self, step: Step) -> Landed:
        self.decisions.append(step.decision)
        seconds = self._truth.predict(step.positions, step.decision.kv_tokens)
        self.now += seconds * float(np.exp(self._noise * self._rng.standard_normal()))
        ranges, commits = [], []
        positions, masks = step.positions, step.masks
        for turn in step.turns:
            row = self._row(turn)
            if row.width:
                positions, masks = positions - row.width, masks - row.masks
            # One that finds no room waits, and so do all behind it.
            stop = row.stop if positions >= 0 and masks >= 0 else row.start
            ranges.append((row.start, stop))
            commits.append(self._commits(row.request, stop) if stop > row.start and not turn.prompt else NOTHING)
        return Landed(ranges, commits)

    def _row(self, turn: Turn) -> Row:
        """What a turn computes, now that the step before is over."""
        request, row = turn.request, turn.row
        if turn.outlook:
            if request.elastic:
                request.grant(turn.chunk)
            row = cast(Row, next_row(request, request.canvas))
        return Row(request, row.start, row.start, row.start) if request.finished else row

    def _commits(self, request: Request, stop: int) -> Commits:
        block, frontier = request.block_size, request.frontier
        border = (frontier // block + 1) * block
        count = min(stop + request.shift, border) - frontier
        if count <= 0:
            return NOTHING
        if count == 1:
            return _commit(np.array([frontier]), 1)
        source = source_of(request.id)
        course = self._courses[self._recorded(request)][source]
        first = self._cycles[source](frontier // block - request.prompt_len // block) * block + frontier % block
        masked = ~request.committed[frontier:border]
        known = block - np.count_nonzero(masked)
        masked = masked[:count]
        ready = (masked & (course.need[first : first + count] <= known)).nonzero()[0]
        if not len(ready):
            ready = np.array([np.where(masked, course.rank[first : first + count], 255).argmin()])
        return _commit(frontier + ready, int(np.count_nonzero(masked)))

    def _recorded(self, request: Request) -> int:
        """The recorded chunk size that is nearest to the one in force."""
        if request.params.policy == "block":
            return BLOCK
        if request.chunk not in self._nearest:
            sizes = (size for size in self._courses if size != BLOCK)
            self._nearest[request.chunk] = min(sizes, key=lambda size: abs(size - request.chunk))
        return self._nearest[request.chunk]


_ZEROS = [(np.zeros(count, np.int64), np.zeros(count)) for count in range(257)]


def _commit(positions: NDArray[np.int64], offered: int) -> Commits:
    ids, logprobs = _ZEROS[len(positions)]
    return Commits(positions, ids, logprobs, valid=True, offered=offered)


def source_of(request_id: str) -> int:
    return int(request_id.rsplit("/", 1)[1])
