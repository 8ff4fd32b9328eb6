"""What chunk sizes do otherwise than a model of the yields says, learned from the rows of all requests.

By which factor a rung commits more, or computes more, than expected is taken for a number near 1 and near that of its
neighbors on the ladder (a Gaussian process over the rungs). What rows have shown pulls it away from there, by as much
as they are worth against their noise. How unsure it still is follows from the same.

Hard and easy requests have factors of their own: most of what is wrong about large chunks is tokens behind an answer's
end, and easy answers are short ones.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Standard deviation of a factor of which nothing was seen, and the correlation of those of two neighbors: ``long_run``
# is within 10 % of stories of the demo models at every chunk size.
SPREAD, ALIKE = 0.08, 0.3
# The variance of what tokens say of a factor is this over their number: tokens of one block are hard or easy together.
NOISE = 1.5
# What was seen of a rung counts for so much less with each row more: what 20,000 rows have shown stays. With 5,000, the
# noise of a story's 9,000 tokens is 1.3 %, as much as lies between the best rungs.
FORGET = 0.99995
# And with each step, but more so at the start: the first steps were judged by who knew nothing of the requests.
FORGET_STEP = 0.9999
# While requests are unknown, expectations are wrong for all rungs: by how much the last rows tell, and so many tokens.
FORGET_ALL, TRUST = 0.9995, 200.0


class Corrections:
    """Factors for each rung of a ladder.

    Args:
        size: rungs of the ladder.
        likeness: ``[P, groups]``, how much each kind of request takes after each group that has factors of its own.
        places: of the rungs; the nearer, the more alike. Neighbors are 1 apart by default.

    Attributes:
        alike: ``[rungs, rungs]``, correlation of their factors before anything was seen.
    """

    def __init__(self, size: int, likeness: Floats, places: Floats | None = None) -> None:
        at = np.arange(size, dtype=float) if places is None else places
        self.alike = ALIKE ** np.abs(np.subtract.outer(at, at))
        self._prior = SPREAD**2 * self.alike
        self._likeness = likeness
        self._steps = 0
        # Commits and computed positions; of each what was seen and expected, by group and rung.
        self._sums = np.zeros((2, 2, likeness.shape[1], size))
        self._all = np.zeros(2)

    @property
    def factors(self) -> tuple[Floats, Floats]:
        """Of commits and of computed positions, both ``[P, rungs]``."""
        commits, computed = (self._likeness @ self._mean(*sums) for sums in self._sums)
        return self._overall * commits, computed

    @property
    def doubt(self) -> Floats:
        """``[P, rungs]``, standard deviation of the factors of commits."""
        certain = np.eye(len(self._prior)) + self._prior * self._sums[0, 1][:, None] / NOISE
        variance = np.linalg.solve(certain, self._prior[None]).diagonal(axis1=1, axis2=2)
        return np.asarray(self._likeness @ np.sqrt(variance))

    def observe(
        self,
        rung: Ints,
        again: NDArray[np.bool_],
        kind: Floats,
        commits: tuple[Ints, Ints],
        width: Ints,
        expected: tuple[Floats, Floats],
    ) -> None:
        """Learn from the rows of one step.

        Args:
            rung: of each row.
            again: whether its request had that rung in the step before, too. If not, pending tokens of another chunk
                size are still in the row, or it is an answer's first, which has none.
            kind: ``[rows, P]``, how likely each kind is.
            commits: of each row, all and those that are of use.
            width: positions each row computed.
            expected: commits and computed positions, ``[rows, P]`` each.
        """
        self._steps += 1
        likeness = kind @ self._likeness
        rows = np.zeros(self._sums.shape[:1:-1])
        np.add.at(rows, rung, likeness)
        self._sums *= FORGET**rows.T * min(1 - 1 / (self._steps + 1), FORGET_STEP)
        likeness = again[:, None] * likeness
        found = [again[:, None] * ((kind * values) @ self._likeness) for values in expected]
        self._all = FORGET_ALL ** len(rung) * self._all + ((again * commits[0]).sum(), found[0].sum())
        found[0] *= self._overall
        for sums, seen, values in zip(self._sums, (commits[1], width), found, strict=True):
            np.add.at(sums[0].T, rung, likeness * seen[:, None])
            np.add.at(sums[1].T, rung, values)

    @property
    def _overall(self) -> float:
        """By which factor all rungs commit more than expected."""
        return float((self._all[0] + TRUST) / (self._all[1] + TRUST))

    def _mean(self, seen: Floats, expected: Floats) -> Floats:
        """``[groups, rungs]``, seen over expected as far as it is known, within a factor of 4."""
        certain = np.eye(len(self._prior)) + self._prior * expected[:, None] / NOISE
        surprise = (seen - expected) @ self._prior / NOISE
        return np.asarray((1 + np.linalg.solve(certain, surprise[..., None])[..., 0]).clip(0.25, 4))
