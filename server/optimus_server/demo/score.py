"""Figures of judged answers, with 95 % intervals.

Accuracy counts the questions that were answered right; its interval is Wilson's. TPF is tokens per request and step,
and computed/token the positions computed beyond the prompt for each token; both are ratios of sums, and their
intervals are a bootstrap that draws whole questions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question under one cell."""

    task: str
    scored: bool
    right: bool
    tokens: int
    steps: int
    computed: int


class Score:
    """The figures of some outcomes."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.prompts = len(outcomes)
        self.right = sum(one.right for one in outcomes)
        self._tokens = np.array([one.tokens for one in outcomes], float)
        self._steps = np.array([one.steps for one in outcomes], float)
        self._computed = np.array([one.computed for one in outcomes], float)

    @property
    def accuracy(self) -> float:
        return self.right / self.prompts if self.prompts else 0.0

    @property
    def tpf(self) -> float:
        return float(self._tokens.sum() / max(1, self._steps.sum()))

    @property
    def computed_per_token(self) -> float:
        return float(self._computed.sum() / max(1, self._tokens.sum()))

    def accuracy_interval(self) -> tuple[float, float]:
        """Of nothing, it is about everything."""
        n, p, z = max(1, self.prompts), self.accuracy, _Z
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)

    def tpf_interval(self) -> tuple[float, float]:
        return _bootstrap(self._tokens, self._steps)

    def computed_interval(self) -> tuple[float, float]:
        return _bootstrap(self._computed, self._tokens)


def _bootstrap(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of ``sum(above) / sum(below)`` over questions drawn again, with the same draws every time."""
    if not len(above):
        return 0.0, 0.0
    count = len(above)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    low, high = np.percentile(drawn @ above / np.maximum(1, drawn @ below), [2.5, 97.5])
    return float(low), float(high)
