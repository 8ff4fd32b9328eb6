"""What the results page shows, and what of it has been measured."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Section:
    """The cells of one workload of ``workload``: for each batch chunk sizes, as `bench decode --grid` takes them."""

    title: str
    cells: Mapping[int, str]


# Of the fixed chunk sizes those that were best there in a simulation of the card, or near it; chunk 1 where it is best
# and where AR is compared with; whole blocks everywhere.
SECTIONS = {
    "short": Section(
        "Short answers, of about 43 tokens, prompts of about 128",
        {1: "auto,block,64,1", 16: "auto,block,16,8,1", 64: "auto,block,8,4,1", 256: "auto,block,4,2,1"},
    ),
    "chat": Section(
        "Short answers and stories, of about 45 tokens on average, prompts of about 128",
        {1: "auto,block,1", 64: "auto,block,4,1"},
    ),
    "story": Section(
        "Stories, of about 410 tokens",
        {1: "auto,block,32,1", 4: "auto,block,16,12,1", 16: "auto,block,8,4,1", 64: "auto,block,3,2,1",
         256: "auto,block,2,1"},
    ),
    "long": Section(
        "Stories after 2,000 tokens of chat",
        {1: "auto,block,32,1", 16: "auto,block,8,4,1", 64: "auto,block,4,2,1"},
    ),
}  # fmt: skip

# What is served over HTTP, and to how many clients at once.
SERVED, CLIENTS = "short", (1, 4, 8, 16, 32, 64, 128, 256)

# Made of the demo model: its own directory's name and what `demo widen` is told.
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "demo": ("demo", ()),
    "demo-sdar": ("demo-sdar", ()),
    "demo-ar": ("demo", ("--autoregressive",)),
}
TITLES = {"demo": "shifted logits", "demo-sdar": "no shift", "demo-ar": "Qwen3 twin"}

Cells = dict[tuple[int, str], dict[str, Any]]
"""By batch and chunk size."""


def chunks_of(variant: str, chunks: Iterable[str]) -> list[str]:
    """Those that mean something to a variant.

    Without shifted logits a row of one position predicts nothing new, and an autoregressive model knows no other.
    """
    if variant == "demo-ar":
        return ["1"]
    return [chunk for chunk in chunks if variant == "demo" or chunk != "1"]


@dataclass(slots=True)
class Found:
    """All figures of one variant.

    Attributes:
        decode: cells by section.
        step, serve: reports of `bench step` and `bench serve`, if there are any.
        machines: on which they were taken.
    """

    decode: dict[str, Cells] = field(default_factory=dict)
    step: dict[str, Any] | None = None
    serve: dict[str, Any] | None = None
    machines: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.step or self.serve)


def find(directories: Sequence[Path], variant: str) -> Found:
    """What was measured of a variant; where directories hold the same figure, the first one's counts."""
    found = Found()
    for directory in directories:
        if report := _read(directory / f"{variant}-decode.json"):
            found.machines.append(report["machine"])
            for cell in report["cells"]:
                cells = found.decode.setdefault(cell["workload"], {})
                cells.setdefault((cell["batch"], str(cell["chunk"])), cell)
        if step := _read(directory / f"{variant}-step.json"):
            found.step = found.step or step
            found.machines.append(step["machine"])
        found.serve = found.serve or _read(directory / f"{variant}-serve.json")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    report: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return report
