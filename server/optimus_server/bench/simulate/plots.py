"""Plots of ``optimus bench simulate``. Matplotlib is an extra: ``pip install 'optimus-dllm[bench]'``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimus_server.bench.plots import need_matplotlib
from optimus_server.bench.simulate.scenarios import Steady
from optimus_server.bench.simulate.world import Run

__all__ = ["burst", "need_matplotlib", "throughput"]

# What stands out; fixed chunk sizes are drawn from light to dark.
STYLES = {"AR": ("C3", "--", 2.0), "elastic": ("C0", "-", 3.0)}


def throughput(points: Sequence[Steady], path: Path) -> None:
    """Tokens a second over the load, one panel per context."""
    import matplotlib
    from matplotlib.figure import Figure

    contexts = sorted({point.context for point in points})
    names = list(dict.fromkeys(point.scheme for point in points))
    fixed = [name for name in names if name.startswith("chunk")]
    shades = matplotlib.colormaps["viridis"]
    figure = Figure(figsize=(6 * len(contexts), 5), layout="constrained")
    for panel, context in zip(figure.subplots(1, len(contexts), squeeze=False)[0], contexts, strict=True):
        for name in names:
            mine = [point for point in points if (point.scheme, point.context) == (name, context)]
            style: tuple[Any, str, float]
            if name in fixed:
                style = (shades(fixed.index(name) / len(fixed)), "-", 1.0)
            else:
                style = STYLES.get(name, ("C1", "--", 2.0))
            colour, line, width = style
            panel.plot(
                [point.batch for point in mine], [point.rate for point in mine], line, color=colour, linewidth=width,
                marker=".", label=name,
            )  # fmt: skip
        panel.set_title(f"context {context}")
        panel.set_xlabel("requests at a time")
        panel.set_ylabel("tokens a second")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


def burst(run: Run, path: Path) -> None:
    """Requests that decode, chunk size and throughput over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    ends = [step.end for step in run.steps]
    panels[0].plot(ends, [step.rows for step in run.steps])
    panels[0].set_ylabel("requests that decode")
    panels[1].step(ends, [step.chunk for step in run.steps], where="pre")
    panels[1].set_ylabel("chunk size of a typical one")
    panels[1].set_yscale("log", base=2)
    panels[2].plot(ends, [1e3 * step.seconds for step in run.steps], label="observed")
    panels[2].plot(ends, [1e3 * step.predicted_s for step in run.steps], ":", label="predicted")
    panels[2].set_ylabel("step time, ms")
    panels[2].legend()
    panels[2].set_xlabel("seconds")
    for panel in panels:
        panel.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)
