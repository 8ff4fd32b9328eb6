"""Every kernel against its reference, in several processes: compiling takes longer than running.

They fill Triton's cache for the timings.
"""

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch

from optimus_kernels.bench import attention, products, small, steps
from optimus_kernels.paged_attention.tile import Tile

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def verify(workers: int, only: str | None) -> list[str]:
    """What is wrong; a process takes all loads of a variant, which is compiled once for them."""
    jobs: dict[tuple[Tile | None, int, str], list[tuple[int, int | None]]] = {}
    loads = [*attention.DECODE, *attention.PREFILL]
    for (place, load), dtype in itertools.product(enumerate(loads), _DTYPES):
        for tile, splits in attention.variants(load):
            # fp16 differs in one type only: what the kernel chooses by itself is enough
            if dtype == "bf16" or tile is None:
                jobs.setdefault((tile, load.page_size, dtype), []).append((place, splits))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = []
        if only != "attention":
            results += [pool.submit(_check_small, dtype) for dtype in _DTYPES]
        if only != "small":
            results += [pool.submit(_check_attention, tile, dtype, todo) for (tile, _, dtype), todo in jobs.items()]
        return [line for result in results for line in result.result()]


def _check_small(dtype: str) -> list[str]:
    wrong = small.check(_DTYPES[dtype]) + products.check(_DTYPES[dtype])
    if dtype == "bf16":
        wrong += steps.check()
        for one in small.contenders(32):
            one.call(*one.sets[0])
        torch.cuda.synchronize()
    return wrong


def _check_attention(tile: Tile | None, dtype: str, todo: list[tuple[int, int | None]]) -> list[str]:
    loads = [*attention.DECODE, *attention.PREFILL]
    wrong = []
    for place, splits in todo:
        # the first load of each width, and every split of the smaller ones: the others differ in numbers only
        load = loads[place]
        if tile is not None and load.kv_bytes > 2**29:
            continue
        try:
            problem = attention.check(load, tile, splits, _DTYPES[dtype])
        except Exception as error:
            problem = f"{load.name} {tile} splits {splits} {dtype}: {type(error).__name__} {str(error)[:300]}"
        torch.cuda.empty_cache()
        wrong += [problem] if problem else []
    return wrong
