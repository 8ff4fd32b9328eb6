"""From logits to tokens: the best or a drawn token of each masked position, its confidence and its entropy."""

from optimus_kernels.choose.op import choose
from optimus_kernels.choose.plan import Sampling
from optimus_kernels.choose.reference import kept

__all__ = ["Sampling", "choose", "kept"]
