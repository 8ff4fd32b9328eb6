"""What chunk sizes do otherwise than a model of the yields says, learned from the rows of all requests.

By which factor a rung commits more, or computes more, than expected is taken for a number near 1 and near that of its
neighbors on the ladder (a Gaussian process over the rungs), times one that all rungs have in common. What rows have
shown pulls it away from there, by as much as they are worth against their noise: of the first rung that is seen, most
of what is wrong is common; where two are known, what they differ by is their own. How unsure it still is follows from
the same.

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
# Standard deviation of what is wrong for all of them: requests that are not known yet commit less or more than that.
COMMON = 0.2
# And of what share of a rung's commits is of use: many tokens are lost at once where an answer ends, so one end says
# little of a rung that is tried now and then.
USE = 0.05
# The variance of what tokens say of a factor is this over their number: tokens of one block are hard or easy together.
NOISE = 1.5
# What was seen of a rung counts for so much less with each row more: what 20,000 rows have shown stays. With 5,000, the
# noise of a story's 9,000 tokens is 1.3 %, as much as lies between the best rungs.
FORGET = 0.99995
# And with each step, but more so at the start: the first steps were judged by who knew nothing of the requests.
FORGET_STEP = 0.9999
# Factors are worked out anew every so many steps, and in each of the first ones: in one step they hardly change.
EVERY, FIRST = 4, 200


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
        self._with_common = self._prior + COMMON**2
        self._use = USE**2 * self.alike
        self._likeness = likeness
        self._steps = 0
        self._known: tuple[Floats, Floats, Floats] | None = None
        # Commits, positions, and commits that are of use; of each what was seen and expected, by group and rung.
        self._sums = np.zeros((3, 2, likeness.shape[1], size))

    @property
    def factors(self) -> tuple[Floats, Floats]:
        """Of commits and of computed positions, both ``[P, rungs]``."""
        commits, computed, _ = self._all()
        return commits, computed

    @property
    def doubt(self) -> Floats:
        """``[P, rungs]``, standard deviation of the factors of commits, beside what they have in common."""
        return self._all()[2]

    def _all(self) -> tuple[Floats, Floats, Floats]:
        if self._known is None:
            # What is behind an answer's end is the chunk size's own: larger ones reach further.
            priors = (self._with_common, self._with_common, self._use)
            commits, computed, useful = map(self._mean, self._sums, priors)
            certain = np.eye(len(self._prior)) + self._prior * self._sums[0, 1][:, None] / NOISE
            variance = np.linalg.solve(certain, self._prior[None]).diagonal(axis1=1, axis2=2)
            self._known = self._likeness @ (commits * useful), self._likeness @ computed, self._likeness @ variance**0.5
        return self._known

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
            again: whether the row is what this rung alone has made of its block. If not, tokens of another chunk size
                are pending or ahead, or it is an answer's first, which has none.
            kind: ``[rows, P]``, how likely each kind is.
            commits: of each row, all and those that are of use.
            width: positions each row computed.
            expected: commits and computed positions, ``[rows, P]`` each.
        """
        self._steps += 1
        if self._steps % EVERY == 0 or self._steps < FIRST:
            self._known = None
        likeness = kind @ self._likeness
        rows = np.zeros(self._sums.shape[:1:-1])
        np.add.at(rows, rung, likeness)
        self._sums *= FORGET**rows.T * min(1 - 1 / (self._steps + 1), FORGET_STEP)
        likeness = again[:, None] * likeness
        for sums, seen, values in zip(self._sums, (commits[0], width), expected, strict=False):
            np.add.at(sums[0].T, rung, likeness * seen[:, None])
            np.add.at(sums[1].T, rung, again[:, None] * ((kind * values) @ self._likeness))
        for sum_, seen in zip(self._sums[2], commits[::-1], strict=True):
            np.add.at(sum_.T, rung, likeness * seen[:, None])

    def _mean(self, sums: Floats, prior: Floats) -> Floats:
        """``[groups, rungs]``, seen over expected as far as it is known, within a factor of 4."""
        seen, expected = sums
        certain = np.eye(len(prior)) + prior * expected[:, None] / NOISE
        surprise = (seen - expected) @ prior / NOISE
        return np.asarray((1 + np.linalg.solve(certain, surprise[..., None])[..., 0]).clip(0.25, 4))
