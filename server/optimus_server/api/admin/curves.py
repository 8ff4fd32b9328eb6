"""The load of a period as curves that the server draws: lines of SVG, so that they show without scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDE, HIGH = 240, 40
"""Of a drawing, in its own units; one per point of time."""
GAP_US = 3 * 10**6
"""Samples come once a second; further apart, there were none because nothing ran."""

CURVES = (
    ("tok_s", "tokens/s", 1), ("running", "running", 1), ("waiting", "waiting", 1),
    ("step_ms_p50", "step time, ms", 1), ("chunk_p50", "chunk", 1), ("kv", "KV memory, %", 100),
)  # fmt: skip
"""Column, name, and what its values are multiplied by."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One of them.

    Attributes:
        path: of an SVG that is WIDE by HIGH; a gap where the server was idle or not there.
        mean, most: of the points.
    """

    name: str
    path: str
    mean: float
    most: float


def curves(rows: Sequence[dict[str, Any]], since_us: int, until_us: int) -> list[Curve]:
    """Of the load samples of a period, ``Log.load`` with WIDE points; none without samples."""
    width = (until_us - since_us) / WIDE
    gap = max(2.5, GAP_US / width)
    found = []
    for column, name, scale in CURVES:
        points = [
            ((row["t_us"] - since_us) / width, scale * float(row[column])) for row in rows if row[column] is not None
        ]
        if not points:
            continue
        values = [value for _, value in points]
        found.append(Curve(name, _path(points, max(values), gap), sum(values) / len(values), max(values)))
    return found


def _path(points: Sequence[tuple[float, float]], most: float, gap: float) -> str:
    """Moves over gaps, lines between neighbors; a point without one is a short line."""
    parts, before = [], float("-inf")
    for x, value in points:
        y = HIGH - 1 - (HIGH - 2) * (value / most if most else 0.0)
        parts.append(f"L{x:.1f} {y:.1f}" if x - before < gap else f"M{x:.1f} {y:.1f}h1")
        before = x
    return "".join(parts)
