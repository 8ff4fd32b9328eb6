"""Some rows, for some blocks, decode at a chunk size that may be better than the best one known (Thompson sampling).

Each of them draws what every chunk size may be worth, from what is known of it, and takes what would be best if all
requests were like that. So what is nearly as good as the best known is tried often, what is certainly worse never. The
draw has a level of its own: where step times are stairs, the best two levels may lie far apart. What a try costs the
others is known, and what costs much is not tried.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.elastic.levels import PRICES
from optimus_server.engine.elastic.yields import YieldModel
from optimus_server.engine.request import Request

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# One stretch in so many, of so many blocks, is such a try.
EXPLORE, EXPLORED = 8, 4
# So many different draws.
DRAWS = 4096
# No try costs more than this, as a share of what its row does in the meantime: where a room is full, a position more
# costs all rows, and what a try may find out is worth little more than what lies between the best two chunk sizes.
DEAR = 0.05


class Explorer:
    """Which rows try something else, and what; one request tries the same for a whole stretch."""

    def __init__(self, yields: YieldModel, block_size: int) -> None:
        self._yields, self._stretch = yields, EXPLORED * block_size
        self._draws = yields.draws(DRAWS)

    def explore(
        self,
        rows: Sequence[Request],
        chosen: Ints,
        rung: Ints,
        rate: Floats,
        speed: Floats,
        computed: Floats,
        longer: Callable[[Floats], Floats],
    ) -> None:
        """Change some of the rungs in ``chosen``.

        Args:
            rung: ``[levels, rows]``, what each row takes at each level.
            rate: ``[levels]``, commits a second.
            speed, computed: ``[rows, rungs]``, mean logarithm of commits, and positions.
            longer: logarithm of how many times longer steps take with so many positions more.
        """
        slots = np.array([self._yields.slot(row.id) for row in rows], dtype=np.int64)
        draws = [hash((slot, row.frontier // self._stretch)) for slot, row in zip(slots.tolist(), rows, strict=True)]
        tries = [place for place, draw in enumerate(draws) if draw % EXPLORE == 0]
        if not tries:
            return
        luck = self._draws[[draws[place] // EXPLORE % DRAWS for place in tries]]
        doubt = self._yields.doubt(slots)
        # [levels, rungs]: by how much each level's rate leans on luck with each rung
        lean = np.zeros((len(PRICES), luck.shape[1]))
        np.add.at(lean, (np.arange(len(PRICES))[:, None], rung), doubt[np.arange(len(rows)), rung] / len(rows))
        price = PRICES[(np.log(rate) + luck @ lean.T).argmax(1)]
        worth = speed[tries] - price[:, None] * computed[tries]
        tried, known = (worth + doubt[tries] * luck).argmax(1), chosen[tries]
        cost = len(rows) * longer(computed[tries, tried] - computed[tries, known])
        cost += speed[tries, known] - speed[tries, tried]
        chosen[tries] = np.where(cost <= DEAR, tried, known)
