"""Paged attention: steps of serving, and the tiles and splits that suit them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from optimus_kernels.bench.check import agrees, errors
from optimus_kernels.bench.measure import DEVICE, seconds
from optimus_kernels.paged_attention import AttentionPlan, plan_attention
from optimus_kernels.paged_attention.kernel import paged_attention_triton
from optimus_kernels.paged_attention.reference import paged_attention_reference
from optimus_kernels.paged_attention.tile import Tile

HEADS, KV_HEADS, DIM, BLOCK_SIZE = 32, 8, 128, 32
# The KV of all timed layers together: several times the L2 cache.
_FOOTPRINT = 256 * 2**20

TILES = [Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(64, 32, 4, 4), Tile(128, 64, 8, 3)]


@dataclass(frozen=True)
class Load:
    """One step: rows of (width, context), the context including the width."""

    name: str
    rows: tuple[tuple[int, int], ...]
    page_size: int = 64

    @property
    def positions(self) -> int:
        return sum(width for width, _ in self.rows)

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V that the step must read."""
        return sum(context for _, context in self.rows) * 2 * KV_HEADS * DIM * 2

    @property
    def flops(self) -> int:
        """Operations of the two products, counting each query's visible keys only."""
        seen = 0
        for width, context in self.rows:
            for query in range(context - width, context):
                seen += min(context, (query // BLOCK_SIZE + 1) * BLOCK_SIZE)
        return 4 * seen * HEADS * DIM


def _even(rows: int, width: int, context: int, page_size: int = 64) -> Load:
    return Load(f"{rows} x {width} at {context}, pages of {page_size}", ((width, context),) * rows, page_size)


DECODE = [
    _even(64, 8, 2048, 64),
    _even(64, 8, 2048, 128),
    _even(64, 8, 2048, 32),
    _even(64, 8, 2048, 16),
    _even(64, 8, 512),
    _even(32, 8, 2048),
    _even(8, 8, 2048),
    _even(1, 8, 2048),
    _even(256, 1, 512),
    _even(256, 2, 512),
    _even(128, 4, 2048),
    _even(64, 16, 2048),
    _even(8, 16, 2048),
    _even(8, 32, 512),
    _even(1, 16, 512),
    _even(1, 1, 8192),
    _even(4, 8, 32768),
    Load("64 x 8 at 256 to 8192", tuple((8, 256 * (1 + i % 32)) for i in range(64))),
    Load("64 x 1 to 16 at 2048", tuple((1 + i % 16, 2048) for i in range(64))),
]
PREFILL = [
    Load("prefill 1 x 2048", ((2048, 2048),)),
    Load("prefill 8 x 256", ((256, 256),) * 8),
    Load("prefill 1 x 1024 at 8192", ((1024, 8192),)),
    Load("prefill 1 x 1024 beside 63 x 8 at 2048", ((1024, 1024), *(((8, 2048),) * 63))),
]


@dataclass(frozen=True)
class Inputs:
    """A load's tensors, with as many layers of cache as exceed the L2."""

    q: Tensor
    k: Tensor
    v: Tensor
    plan: AttentionPlan


def inputs(load: Load, dtype: torch.dtype) -> Inputs:
    """Random values; pages in random order."""
    needed = [-(-context // load.page_size) for _, context in load.rows]
    layers = max(1, min(36, -(-_FOOTPRINT // load.kv_bytes)))
    order = iter(torch.randperm(sum(needed)).tolist())
    tables = [[next(order) for _ in range(count)] for count in needed]
    stops = [context for _, context in load.rows]
    plan = plan_attention(
        [context - width for width, context in load.rows],
        stops,
        stops,
        tables,
        block_size=BLOCK_SIZE,
        page_size=load.page_size,
        device=DEVICE,
    )
    shape = (layers, sum(needed), load.page_size, KV_HEADS, DIM)
    k, v = (torch.randn(shape, dtype=dtype, device=DEVICE) for _ in "kv")
    return Inputs(torch.randn(load.positions, HEADS, DIM, dtype=dtype, device=DEVICE), k, v, plan)


def variants(load: Load) -> Iterator[tuple[Tile | None, int | None]]:
    """What the kernel chooses by itself, then what it might have chosen."""
    yield None, None
    longest = max(context for _, context in load.rows)
    for tile in TILES:
        for splits in (1, 2, 4, 8, 16):
            if splits == 1 or (load.positions <= 1024 and splits * 128 <= longest):
                yield tile, splits


def check(load: Load, tile: Tile | None, splits: int | None, dtype: torch.dtype) -> str | None:
    """What is wrong with one variant's output, if anything."""
    data = inputs(load, dtype)
    out = paged_attention_triton(data.q, data.k[0], data.v[0], data.plan, tile=tile, splits=splits)
    expected = paged_attention_reference(data.q.float(), data.k[0].float(), data.v[0].float(), data.plan)
    if agrees(out, expected):
        return None
    return f"{load.name} {tile} splits {splits} {dtype}: errors {errors(out, expected)}"


def rows(load: Load, bandwidth: float) -> list[dict[str, object]]:
    """Times of all variants on one load, in bf16."""
    data = inputs(load, torch.bfloat16)
    table: list[dict[str, object]] = []
    for tile, splits in variants(load):
        name = "default" if tile is None else f"{tile.m}x{tile.n} w{tile.warps} s{tile.stages}"
        row: dict[str, object] = {"load": load.name, "tile": name, "splits": splits}
        call = partial(paged_attention_triton, data.q, plan=data.plan, tile=tile, splits=splits)
        layers = zip(data.k, data.v, strict=True)
        try:
            time = seconds([partial(call, k_pages=k, v_pages=v) for k, v in layers])
        except Exception as error:
            row["error"] = str(error)[:200]
        else:
            row["us"] = round(time * 1e6, 2)
            row["of copy"] = round(load.kv_bytes / time / bandwidth, 3)
            row["TFLOP/s"] = round(load.flops / time / 1e12, 1)
        table.append(row)
    return table
