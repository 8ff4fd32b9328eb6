"""``optimus bench step``: what a step of the engine takes, against what it must take at least.

The floor of a step of n positions is the time of its matrix products, measured on the same card in a CUDA graph of
nothing else, plus the time that one read of its KV takes at the card's measured copy bandwidth. A step is run as the
engine runs it: packed on the host, copied, computed, its result awaited, on a GPU while the step before is under way.
What it holds does not change what it costs, so its tokens are arbitrary; ``optimus bench decode`` judges answers.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from optimus_server.bench.flags import machine, positive
from optimus_server.demo import MODELS
from optimus_server.engine.profile import MOST, periods, synthetic
from optimus_server.engine.runner import Runner
from optimus_server.errors import OptimusError
from optimus_server.models.loader import load_model
from optimus_server.settings import default_threads

PAGE = 32
REPEATS, WARM_UP = 15, 3


@dataclass(frozen=True, slots=True)
class Cell:
    """One step: ``rows`` rows of ``width`` positions, each with ``context`` tokens of KV behind it.

    Attributes:
        step_ms: from the result of the step before to its own.
        device_ms: of that, what the device computed.
        dense_ms, kv_ms: the two terms of the floor.
    """

    rows: int
    width: int
    context: int
    step_ms: float
    device_ms: float
    dense_ms: float
    kv_ms: float

    @property
    def ratio(self) -> float:
        return self.step_ms / (self.dense_ms + self.kv_ms)

    @property
    def host_share(self) -> float:
        return max(0.0, 1 - self.device_ms / self.step_ms)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``optimus bench step``."""
    parser.add_argument("--model", type=Path, default=MODELS / "demo", help="any checkpoint")
    parser.add_argument("--positions", type=positive, nargs="+", default=[32, 256, 512, 2048], help="positions a step")
    parser.add_argument("--chunk", type=positive, nargs="+", default=[8], help="positions a row")
    parser.add_argument("--context", type=positive, nargs="+", default=[512], help="tokens of KV behind each row")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=positive, default=default_threads(), help="CPU threads")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0, or 2 if the checkpoint cannot be used."""
    torch.set_num_threads(args.threads)
    try:
        model = load_model(args.model, device=args.device)
    except (OptimusError, OSError) as error:
        print(f"optimus bench step: {error}", file=sys.stderr)
        return 2
    grid = [(n, width, context) for context in args.context for n in args.positions for width in args.chunk]
    rows = max(-(-n // width) for n, width, _ in grid)
    longest = min(max(args.context), model.config.max_position_embeddings) + max(args.chunk) + 2 * MOST
    # Rows share pages, since what they hold does not matter, but not so few that a cache would hold them all.
    runner = Runner(model, pages=min(rows, 64) * -(-longest // PAGE), page_size=PAGE)
    for layer in runner.kv.layers:
        for pages in layer:
            pages.normal_()
    if runner.device.type == "cuda":
        runner.record(max_rows=rows, max_positions=max(args.positions))
    print(f"{'rows':>5} {'chunk':>5} {'context':>7} {'step ms':>8} {'host':>6} {'dense':>7} {'KV':>6} {'ratio':>6}")
    bandwidth = copy_bandwidth(runner.device)
    cells = [measure(runner, n, width, context, bandwidth) for n, width, context in grid]
    if args.json:
        report = {
            "machine": machine(args.device) | {"model": args.model.name, "copy_bytes_per_s": bandwidth},
            "cells": [asdict(cell) | {"ratio": cell.ratio, "host_share": cell.host_share} for cell in cells],
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(runner: Runner, positions: int, width: int, context: int, bandwidth: float) -> Cell:
    """Medians of several steps."""
    step = synthetic(runner, positions, context, width)
    busy, walls, devices = runner.busy_s, [], []
    for period in islice(periods(runner, step), WARM_UP + REPEATS):
        walls.append(period)
        devices.append(runner.busy_s - busy)
        busy = runner.busy_s
    walls, devices = walls[WARM_UP:], devices[WARM_UP:]
    config = runner.config
    seen = sum(row.stop for row in step.rows)
    kv = seen * 2 * config.layers * config.kv_heads * config.head_dim * runner.dtype.itemsize / bandwidth
    cell = Cell(
        len(step.rows), width, context, 1e3 * statistics.median(walls), 1e3 * statistics.median(devices),
        1e3 * dense(runner, positions), 1e3 * kv,
    )  # fmt: skip
    print(
        f"{cell.rows:5} {width:5} {context:7} {cell.step_ms:8.3f} {cell.host_share:6.1%} {cell.dense_ms:7.3f} "
        f"{cell.kv_ms:6.3f} {cell.ratio:6.3f}",
        flush=True,
    )
    return cell


def dense(runner: Runner, n: int) -> float:
    """Seconds of all matrix products of a step of ``n`` positions that predicts ``n`` masks."""
    config = runner.config
    net: Any = runner.net

    def random(width: int) -> Tensor:
        return torch.randn(n, width, device=runner.device, dtype=runner.dtype)

    x, heads, inner = map(random, (config.hidden_size, config.heads * config.head_dim, config.intermediate_size))

    def products() -> None:
        for layer in net.layers:
            F.linear(x, layer.qkv)
            F.linear(heads, layer.out)
            F.linear(x, layer.gate_up)
            F.linear(inner, layer.down)
        F.linear(x, net.head)

    return seconds(products, runner.device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy that is larger than any cache."""
    source = torch.randn(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: torch.neg(source, out=target), device)


@torch.inference_mode()
def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median time of some work; on a GPU, of its replay as a CUDA graph."""
    work()
    times = []
    if device.type != "cuda":
        for _ in range(REPEATS):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return statistics.median(times)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)
