"""Optimus: a server for diffusion LLMs that chooses decoding granularity at run time."""

__version__ = "0.1.0"
