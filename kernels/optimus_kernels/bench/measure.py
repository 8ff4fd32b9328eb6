"""Timing on a GPU: CUDA graphs of many calls on different data, so that neither launches nor the L2 cache flatter."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

REPEATS = 20
# The checks also run on a CPU, in Triton's interpreter; timings do not.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Contender:
    """One way to do one thing: a call, sets of arguments to call it with, and the bytes that one call must move."""

    op: str
    name: str
    call: Callable[..., object]
    sets: Sequence[tuple[Any, ...]]
    bytes_: int


def seconds(calls: Sequence[Callable[[], object]]) -> float:
    """Median time of one call, within a CUDA graph that makes all of them once.

    The calls should do the same work on data that together exceeds the L2 cache, as the layers of a model do.
    """
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    for _ in range(3):
        graph.replay()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]  # type: ignore[no-untyped-call]
    for begin, end in pairs:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in pairs)) / 1e3 / len(calls)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a large copy by a kernel, which the driver's own copy does not reach."""
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds([lambda: torch.neg(source, out=target)])


def card() -> dict[str, str]:
    """What a figure depends on."""
    import triton

    return {"card": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
