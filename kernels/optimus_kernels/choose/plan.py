"""How tokens are drawn."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of ``m`` positions.

    Attributes:
        temperature: float ``[m]``; 0 is greedy, whatever the others say.
        top_k: int ``[m]``, from 1 to the vocabulary's size, which is off.
        top_p: float ``[m]``; 1 is off.
        uniform: float ``[m]`` in [0, 1), the random number that decides.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    uniform: Tensor
