"""A step under way, and what came of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from optimus_server.engine.forecast import Forecast
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import Commits
from optimus_server.engine.step import Landed, Row, Step, Turn
from optimus_server.engine.telemetry import Decision, RowTrace, StepTrace


@dataclass(frozen=True, slots=True)
class Flight:
    """A step under way, when it was scheduled, and what waits for it."""

    step: Step
    began: float
    wait: Callable[[], Landed]

    def rows(self, landed: Landed, forecast: Forecast) -> tuple[list[Turn], list[Commits]]:
        """The turns that had a row, with that row, and what it commits.

        The others found no room, or their requests had ended before. The step before must have been applied.
        """
        mean = forecast.mean(self.step.turns)
        turns, results = [], []
        for turn, (start, stop), commits in zip(self.step.turns, landed.ranges, landed.commits, strict=True):
            request = turn.request
            if turn.outlook:
                if request.elastic:
                    request.grant(turn.chunk)
                turn.row = Row(request, start, stop, stop)
            if request.finished:
                continue
            request.waited = start == stop
            if start < stop:
                turns.append(turn)
                results.append(commits)
            else:
                row = next_row(request, request.canvas)
                assert row is not None
                turn.row = row
        forecast.learn(mean, self.step.turns)
        return turns, results


@dataclass(slots=True)
class Done:
    """A step that is over and applied: its rows, what they committed, where their frontiers were before.

    Attributes:
        number, at, seconds: since the engine's start; when it began, seconds since 1970; how long it took.
        chunks: of each row, when it was over.
    """

    number: int
    at: float
    seconds: float
    decision: Decision
    turns: list[Turn]
    results: list[Commits]
    before: list[int]
    chunks: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.chunks = [turn.request.chunk for turn in self.turns]

    def look_back(self, forecast: Forecast) -> None:
        """Tell which rows committed all that was left of their block, of those that might have."""
        for turn, frontier in zip(self.turns, self.before, strict=True):
            request = turn.request
            border = (frontier // request.block_size + 1) * request.block_size
            if turn.row.stop + request.shift >= border:
                forecast.saw(border - frontier, request.frontier >= border)

    def trace(self) -> StepTrace:
        """For those who read along; to be asked before the next step is applied."""
        rows = tuple(
            RowTrace(
                request_id=turn.request.id,
                step=turn.request.steps,
                start=turn.row.start,
                stop=turn.row.stop,
                chunk=chunk,
                masks=commits.offered,
                commits=commits,
                frontier=turn.request.frontier,
                advance=min(turn.request.frontier, turn.request.end) - frontier,
            )
            for turn, commits, frontier, chunk in zip(self.turns, self.results, self.before, self.chunks, strict=True)
        )
        return StepTrace(self.number, self.at, self.seconds, self.decision, rows)
