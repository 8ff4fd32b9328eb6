"""What commits cost in prompt: who ends sooner makes room for the next request, whose prompt has to be computed.

Prompts come in bursts. Where a step's time is not in proportion to its positions, bursts make steps longer than their
mean load says, so how unevenly prompts came lately is kept, too.
"""

from collections import deque

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# How fast the ratio of prompt positions to commits follows what happens, per step.
FOLLOW = 0.02
# Bursts are those of so many steps, of which so many kinds are told apart.
BURSTS, KINDS = 64, 16


class PromptLoad:
    """Positions of prompt, of steps to come.

    The pace of a step is its rows times the geometric mean of what they are expected to commit: requests end, and
    prompts come, in proportion to it.
    """

    def __init__(self) -> None:
        self._positions, self._pace = 0.0, 1e-3
        self._lately: deque[int] = deque(maxlen=BURSTS)

    def at(self, pace: Floats) -> Floats:
        """Mean positions of prompt per step, by pace."""
        return pace * self._positions / self._pace

    @property
    def bursts(self) -> Floats:
        """Positions of the last steps, over their mean, from few to many; each stands for some steps."""
        if not any(self._lately):
            return np.ones(1)
        lately = np.sort(self._lately)
        ends = np.linspace(0, len(lately), min(len(lately), KINDS) + 1).astype(int)
        several = np.add.reduceat(lately, ends[:-1]) / np.diff(ends)
        return np.asarray(several / lately.mean())

    def decided(self, pace: float) -> None:
        """A step of this pace is to come."""
        self._pace += FOLLOW * (pace - self._pace)

    def learn(self, positions: int) -> None:
        """So many positions of prompt were computed in a step."""
        self._positions += FOLLOW * (positions - self._positions)
        self._lately.append(positions)
