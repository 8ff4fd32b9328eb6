"""How the attention kernel's work is cut: measured choices."""

from dataclasses import dataclass

import torch

from optimus_kernels.device import cores, shared_memory


@dataclass(frozen=True)
class Tile:
    """Shape of a program's work.

    Attributes:
        m: query heads times positions.
        n: keys a step.
        warps: of 32 threads each.
        stages: steps whose keys are in flight together.
    """

    m: int
    n: int
    warps: int
    stages: int


def default_tile(dim: int, element_size: int, device: torch.device) -> Tile:
    """One tile for decoding and prefill, with as many stages as the card's shared memory holds, 3 at most."""
    # fp32 has no tensor cores, and would not fit the registers
    side = 64 if element_size <= 2 else 16
    most = (shared_memory(device) // (side * dim * element_size) - 1) // 2
    return Tile(m=side, n=side, warps=4, stages=max(1, min(3, most)))


_KEYS_PER_SPLIT = 256
_MOST_SPLITS = 32


def default_splits(programs: int, reach: int, device: torch.device) -> int:
    """Parts of the keys: as many as give each core a program, but no part without some hundred keys.

    More parts cost more to merge than they gain: on 132 cores, 512 programs of 2,048 keys take 9 % longer in two parts.
    """
    return max(1, min(cores(device) // programs, reach // _KEYS_PER_SPLIT, _MOST_SPLITS))
