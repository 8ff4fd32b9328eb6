"""How much room a step needs whose rows are not known yet.

The longest rows that may come of the step under way are known, and most rows are shorter: their block ends, or their
request does. What share of the longest they have been, lately, and how much that varies, says what to make room for. A
row that finds none waits for one step; room that stays empty costs as much as if it were used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from optimus_server.engine.step import Row, Turn

# How fast what is known follows what happens, per step.
FOLLOW = 0.1
# Room beyond the mean, in mean deviations: at 1.5 a step in nine is too small for its last row.
MARGIN = 1.5
# Up to so many positions a step costs no more than with one of them.
FREE = 128


@dataclass(slots=True)
class _Share:
    """Mean and mean deviation of what rows have been of the longest they might have been."""

    mean: float = 1.0
    deviation: float = 0.0

    def of(self, longest: int) -> int:
        return min(longest, round(longest * (self.mean + MARGIN * self.deviation)))

    def learn(self, longest: int, actual: int) -> None:
        if longest:
            error = actual / longest - self.mean
            self.mean += FOLLOW * error
            self.deviation += FOLLOW * (abs(error) - self.deviation)


class Forecast:
    """Room for the rows of a step."""

    def __init__(self) -> None:
        self._positions, self._masks = _Share(), _Share()

    def room(self, turns: Sequence[Turn]) -> tuple[int, int]:
        """Positions and masks to make room for: what is known is never short of it."""
        positions, masks, open_positions, open_masks, longest = 0, 0, 0, 0, 0
        for turn in turns:
            row = turn.row
            width = row.stop - row.start
            if turn.exact:
                positions += width
                masks += row.masks
            else:
                open_positions += width
                open_masks += width
                longest = max(longest, width)
        if not open_positions:
            return positions, masks
        if positions + open_positions <= FREE:
            return positions + open_positions, masks + open_masks
        # At least one row finds room, whatever it needs.
        positions += max(longest, self._positions.of(open_positions))
        return max(positions, len(turns)), masks + max(longest, self._masks.of(open_masks))

    def learn(self, longest: Sequence[Row], turns: Sequence[Turn]) -> None:
        """The longest rows that there were to expect in a step, and its turns with the rows that came of it."""
        seen = [
            (expected.width, turn.row.width, turn.row.masks)
            for expected, turn in zip(longest, turns, strict=True)
            if not turn.exact
        ]
        if seen:
            widths, positions, masks = (sum(column) for column in zip(*seen, strict=True))
            self._positions.learn(widths, positions)
            self._masks.learn(widths, masks)
