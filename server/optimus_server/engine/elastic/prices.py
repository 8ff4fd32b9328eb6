"""What a computed position may cost: the levels that the controller chooses from."""

import numpy as np
from numpy.typing import NDArray

# The lowest one is not 0: a row does not compute what it expects nothing of, even where that takes no time.
PRICES: NDArray[np.float64] = np.concatenate([[0.002], np.geomspace(0.003, 1.0, 24)])
