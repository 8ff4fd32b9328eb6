"""Check every kernel against its reference, then time it; refuses to time what is wrong."""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from optimus_kernels.bench import attention, small
from optimus_kernels.bench.measure import card, copy_bandwidth
from optimus_kernels.bench.verify import verify


def main() -> None:
    """Print tables; exit with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m optimus_kernels.bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="write all figures here, too")
    parser.add_argument("--workers", type=int, default=8, help="processes that compile and check")
    parser.add_argument("--even-if-wrong", action="store_true", help="time what is wrong, too, for debugging")
    parser.add_argument("--only", choices=["attention", "small"], help="half of it")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("the kernels' benchmark needs a CUDA device")
    begin = time.monotonic()
    wrong = verify(args.workers, args.only)
    print(f"checks: {len(wrong)} wrong, {time.monotonic() - begin:.0f} s")
    if wrong:
        print("\n".join(wrong))
        if not args.even_if_wrong:
            sys.exit(1)

    bandwidth = copy_bandwidth()
    print(*card().values(), f"copy {bandwidth / 1e12:.2f} TB/s")
    figures: list[dict[str, object]] = []
    if args.only != "small":
        for load in (*attention.DECODE, *attention.PREFILL):
            table = attention.rows(load, bandwidth)
            figures += table
            _print_best(table, load.name)
    if args.only != "attention":
        for n in (8, 32, 256, 512, 2048):
            table = small.rows(n, bandwidth)
            figures += table
            _print(table)
    print(f"{time.monotonic() - begin:.0f} s in all")
    if args.json:
        args.json.write_text(
            json.dumps({**card(), "wrong": wrong, "copy_bytes_per_s": bandwidth, "figures": figures}, indent=1)
        )


def _print_best(table: Iterable[dict[str, object]], name: str) -> None:
    """The default and the six best."""
    rows = [row for row in table if "us" in row]
    default, *others = rows
    _print([default, *sorted(others, key=lambda row: float(str(row["us"])))[:6]])
    failed = [row for row in table if "error" in row]
    for row in failed:
        print(f"  {name}: {row['tile']} failed: {row['error']}")


def _print(table: Iterable[dict[str, object]]) -> None:
    for row in table:
        print("  ".join(f"{key} {value}" for key, value in row.items()))


if __name__ == "__main__":
    main()
