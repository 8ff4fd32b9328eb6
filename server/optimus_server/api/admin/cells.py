"""Step times by chunk x batch, and commits by chunk: what an operator compares the controller's beliefs with.

Sizes fall into buckets that double: 1, 2, 3 to 4, 5 to 8, ... So a batch of 256 and a chunk of 64 make a table that can
be read, and a server that runs for months keeps no more than that.
"""

import math
import statistics
from collections import Counter, deque
from typing import Any

from optimus_server.engine.telemetry import RowTrace, StepTrace

CELL = 64
"""Steps a cell remembers."""
ENOUGH = 8
"""Steps before a cell says by how much the prediction is off: single steps wait for anything."""
LEVELS = 7
MINUTES = 10
BARS = 8
"""Buckets of the commits of one row: 0, 1, 2, 3 to 4, ..., 33 to 64."""


def bucket(size: int) -> int:
    """1 -> 0, 2 -> 1, 3 and 4 -> 2, 5 to 8 -> 3."""
    return (size - 1).bit_length()


def bounds(number: int) -> tuple[int, int]:
    """The smallest and the largest size of a bucket."""
    return (1 << number) // 2 + 1 if number else 1, 1 << number


class StepTimes:
    """Measured and predicted times of the last steps of each chunk x batch, without steps that computed prompt."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], deque[tuple[float, float]]] = {}

    def add(self, trace: StepTrace) -> None:
        decision = trace.decision
        if decision.chunk and decision.rows and not decision.prefill:
            key = bucket(decision.chunk), bucket(decision.rows)
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = deque(maxlen=CELL)
            cell.append((trace.observed_s, decision.predicted_s))

    def table(self) -> list[dict[str, Any]]:
        """Medians, ascending by chunk and batch.

        ``off`` is by which share steps took longer than predicted, None of too few; ``level`` is the shade
        of the measured time, from 0, the shortest of the table, to LEVELS - 1, the longest, in equal ratios.
        """
        found: list[dict[str, Any]] = []
        for (chunk, batch), cell in sorted(self._cells.items()):
            ratios = [observed / predicted - 1 for observed, predicted in cell if predicted > 0]
            found.append(
                {
                    "chunk": bounds(chunk), "batch": bounds(batch), "steps": len(cell),
                    "observed_ms": round(statistics.median(observed for observed, _ in cell) * 1e3, 2),
                    "predicted_ms": round(statistics.median(predicted for _, predicted in cell) * 1e3, 2),
                    "off": round(statistics.median(ratios), 3) if len(ratios) >= ENOUGH else None,
                }
            )  # fmt: skip
        logs = [math.log(max(cell["observed_ms"], 1e-3)) for cell in found]
        low, high = min(logs, default=0.0), max(logs, default=0.0)
        for entry, height in zip(found, logs, strict=True):
            entry["level"] = round((LEVELS - 1) * (height - low) / (high - low)) if high > low else 0
        return found


class Yields:
    """How many tokens a row committed, by the chunk it was given, over the last minutes."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, Counter[tuple[int, int]], Counter[int]]] = deque(maxlen=MINUTES)

    def add(self, at: float, rows: tuple[RowTrace, ...]) -> None:
        minute = int(at // 60)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, Counter(), Counter()))
        _, commits, positions = self._minutes[-1]
        for row in rows:
            if row.masks:
                size = bucket(row.chunk)
                commits[size, len(row.commits)] += 1
                positions[size] += row.stop - row.start

    def table(self, now: float) -> list[dict[str, Any]]:
        """One entry a chunk bucket.

        ``commits`` is the mean of a row's step, ``efficiency`` commits over computed positions, ``bars`` the shares of
        steps with 0, 1, 2, 3 to 4, ... commits.
        """
        commits: Counter[tuple[int, int]] = Counter()
        positions: Counter[int] = Counter()
        for minute, some, computed in self._minutes:
            if minute > now // 60 - MINUTES:
                commits += some
                positions += computed
        found = []
        for size in sorted(positions):
            of = {count: times for (chunk, count), times in commits.items() if chunk == size}
            rows, tokens = sum(of.values()), sum(count * times for count, times in of.items())
            bars = [0] * BARS
            for count, times in of.items():
                bars[min(BARS - 1, bucket(count) + 1 if count else 0)] += times
            found.append(
                {
                    "chunk": bounds(size), "rows": rows, "commits": round(tokens / rows, 2),
                    "efficiency": round(tokens / positions[size], 3), "bars": [round(n / rows, 3) for n in bars],
                }
            )  # fmt: skip
        return found
