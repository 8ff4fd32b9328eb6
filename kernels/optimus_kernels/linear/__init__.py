"""Matrix products of few positions with weights: what counts is how fast the weights are read."""

from optimus_kernels.linear.op import MOST_POSITIONS, gated_linear, linear

__all__ = ["MOST_POSITIONS", "gated_linear", "linear"]
