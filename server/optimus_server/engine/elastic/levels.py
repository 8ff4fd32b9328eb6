"""Levels: what a computed position costs, and so which rung of the ladder each row takes."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# The lowest one is not 0: a row does not compute what it expects nothing of, even where that takes no time.
PRICES: Floats = np.concatenate([[0.002], np.geomspace(0.003, 1.0, 24)])


def rungs_by_level(speed: Floats, computed: Floats) -> Ints:
    """``[levels, rows]``: what each row takes, of ``speed`` (mean log of commits) and positions, ``[rows, rungs]``."""
    best, chosen = np.full((len(PRICES), len(speed)), -np.inf), np.zeros((len(PRICES), len(speed)), dtype=np.int64)
    for rung in range(speed.shape[1]):
        worth = speed[:, rung] - np.multiply.outer(PRICES, computed[:, rung])
        # Of equals the larger chunk: at price 0 nothing but commits counts.
        chosen[worth >= best] = rung
        np.maximum(best, worth, out=best)
    return chosen
