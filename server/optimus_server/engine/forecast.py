"""How much room a step needs whose rows are not known yet.

Each row depends on whether the row before commits all that is left of its block; the chance of that is learned by how
many places are left. So the mean of all rows together is known well, though no single one is. A row that finds no room
waits for one step, which costs about as much as the room that would have been there for nobody: so the mean is what
room is made for, or all that may be needed where that takes no longer. Where the device pads steps to rooms, it is the
room in which the most positions a second are computed: a few rows wait rather than that all pay for the next room.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.elastic.latency import WAIT
from optimus_server.engine.step import Turn

Floats = NDArray[np.float64]

# Forgetting, per row that is seen: 0.999 is a thousand rows.
FORGET = 0.999
# How many rows the first guess counts for: chances of 1, 1/2, 1/3 ... for 1, 2, 3 ... places.
GUESS = 4.0
# How fast the share of rows that are there at all follows what happens, per step: requests end, too.
FOLLOW = 0.05
# Room for all that may be needed is made if that takes at most so much longer.
FREE = 1.02


class Forecast:
    """Room for the rows of a step.

    Args:
        seconds: of steps, by positions and KV tokens.
        rooms: what steps are padded to, ascending.

    Attributes:
        present: positions that come, over those that are expected if no request ends.
    """

    def __init__(self, seconds: Callable[[Floats, Floats], Floats], rooms: Sequence[int] = ()) -> None:
        self._seconds, self._rooms = seconds, rooms
        self._left: list[float] = []
        self._of: list[float] = []
        self.present, self._masks = 1.0, 1.0

    def chance(self, places: int) -> float:
        """Of a row to commit all that is left of its block."""
        while len(self._of) <= places:
            self._left.append(GUESS / max(1, len(self._of)))
            self._of.append(GUESS)
        return self._left[places] / self._of[places] if places else 0.0

    def mean(self, turns: Sequence[Turn]) -> float:
        """Positions of the rows that are not known, if all are there."""
        outlooks = [turn.outlook for turn in turns if turn.outlook]
        return sum([stay + self.chance(places) * (leave - stay) for places, stay, leave, _ in outlooks])

    def room(self, turns: Sequence[Turn]) -> tuple[int, int]:
        """Positions and masks to make room for; what is known is never short of it, and one row never is."""
        positions, masks, most, longest = 0, 0, 0, 0
        for turn in turns:
            if turn.outlook:
                most, longest = most + turn.outlook.longest, max(longest, turn.outlook.longest)
            else:
                positions, masks = positions + turn.row.width, masks + turn.row.masks
        if not most:
            return positions, masks
        mean = self.mean(turns)
        likely = min(most, max(longest, len(turns) - positions, round(self.present * mean)))
        kv_tokens = sum([turn.row.visible for turn in turns])
        gap = 0.5 * likely / sum([turn.outlook is not None for turn in turns])
        room = self._room(positions, longest, likely, most, gap, kv_tokens)
        if room >= most:
            return positions + most, masks + most
        expected = self._masks * mean * max(1.0, room / likely)
        return positions + room, masks + min(room, max(longest, round(expected)))

    def _room(self, known: int, longest: int, likely: int, most: int, gap: float, kv_tokens: int) -> int:
        """Positions for the rows that are not known: ``likely``, ``most`` at most, one row has ``longest``.

        Args:
            gap: what a row leaves empty that finds no room, on average.
        """
        rooms = [room - known for room in self._rooms if known + longest <= room < known + most]
        if known + likely > max(self._rooms, default=0):
            # Nothing is padded there.
            rooms.append(likely)
        room = np.array([*rooms, most], float)
        filled = np.where(room < likely, room - gap, likely)
        seconds = self._seconds(known + room, kv_tokens * (known + filled) / (known + likely))
        pace = (known + filled) / seconds
        best, enough = int(pace.argmax()), int((room >= likely).argmax())
        if pace[best] < WAIT * pace[enough]:
            best = enough
        return int(room[seconds <= FREE * seconds[best]].max(initial=room[best]))

    def saw(self, places: int, left: bool) -> None:
        """Learn from a row that might have committed all that was left of its block, and did or did not."""
        self.chance(places)
        self._left[places] = FORGET * self._left[places] + left
        self._of[places] = FORGET * self._of[places] + 1

    def learn(self, mean: float, turns: Sequence[Turn]) -> None:
        """Learn from the rows that came of a step's turns, of which ``mean`` positions were expected."""
        if mean:
            rows = [turn.row for turn in turns if turn.outlook]
            self.present += FOLLOW * (sum([row.stop - row.start for row in rows]) / mean - self.present)
            self._masks += FOLLOW * (sum([row.masks for row in rows]) / mean - self._masks)
