"""Correctness and speed of the kernels on a GPU: ``python -m optimus_kernels.bench --json FILE``."""
