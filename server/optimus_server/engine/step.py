"""One forward of the engine: whose turn it is, and what the host knows about their rows."""

from dataclasses import dataclass
from typing import NamedTuple

from optimus_server.engine.request import Commits, Request
from optimus_server.engine.telemetry import Decision


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

    @property
    def masks(self) -> int:
        """Places of its masks: from the frontier up to what its last output predicts."""
        request = self.request
        return max(0, min(self.stop + request.shift, request.canvas) - request.frontier)


class Outlook(NamedTuple):
    """What may follow a row whose result is not known yet.

    Attributes:
        places: from its frontier to the end of its block, if it may commit all masks there, else 0.
        stay, leave: positions of the next row if the block has masks left, and if everything is committed.
        longest: positions of the longest row that may come of it, also if it finds no room itself.
    """

    places: int
    stay: int
    leave: int
    longest: int


@dataclass(slots=True)
class Turn:
    """A request's turn in a step.

    Attributes:
        row: what it computes. While the step before is still under way, the longest row that may come of it.
        slot: where the device keeps the request.
        chunk: chunk size it was given. Pending tokens may widen the row, but it still yields what this chunk size does.
        outlook: what it may be instead; None if ``row`` is exactly that.
        prompt: whether it is a row of prompt that was cut, so that it offers no mask.
        fresh: whether the device does not have the request yet.
    """

    row: Row
    slot: int
    chunk: int
    outlook: Outlook | None
    prompt: bool
    fresh: bool

    @property
    def request(self) -> Request:
        return self.row.request

    @property
    def exact(self) -> bool:
        return self.outlook is None


@dataclass(slots=True)
class Step:
    """One forward of the engine.

    Attributes:
        turns: rows of prompt first, those that are exact before those that are not.
        tables: turn by turn the page table that holds its KV.
        decision: why the step is like that.
        positions, masks: how many there is room for. A turn that finds none waits for the next step, and so do all
            behind it.
    """

    turns: tuple[Turn, ...]
    tables: tuple[list[int], ...]
    decision: Decision
    positions: int
    masks: int

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple([turn.row for turn in self.turns])


@dataclass(frozen=True, slots=True)
class Landed:
    """What has become of a step: where each turn's row started and stopped, and what it commits.

    A turn that found no room, or whose request had ended, stops where it starts.
    """

    ranges: list[tuple[int, int]]
    commits: list[Commits]
