"""Which kernels are compiled while something is measured: each is, when a shape of its kind comes first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of the Triton kernels that are compiled from here on, as that happens."""
    names: list[str] = []
    try:
        from triton import knobs
    except ImportError:  # Triton is made for Linux only
        yield names
        return

    def note(**compiled: Any) -> None:
        names.append(compiled["fn"].name)

    previous, knobs.runtime.jit_post_compile_hook = knobs.runtime.jit_post_compile_hook, note
    try:
        yield names
    finally:
        knobs.runtime.jit_post_compile_hook = previous
