"""Plots of ``optimus bench serve``. Matplotlib is an extra: ``pip install 'optimus-dllm[bench]'``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimus_server.errors import SettingsError

PANELS = (("ttft", "time to first token, ms"), ("tpot", "time per output token, ms"), ("e2e", "whole request, ms"))
LINES = {"p50": "-", "p90": "--", "p99": ":"}


def need_matplotlib() -> None:
    """Raise SettingsError, which says what to install, before anything is measured in vain."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SettingsError("--plot needs matplotlib: pip install 'optimus-dllm[bench]'", param="plot") from None


def draw(reports: Sequence[dict[str, Any]], path: Path) -> None:
    """Throughput and latencies over the load, one colour per report, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    throughput = axes[0]
    for number, report in enumerate(reports):
        colour, points = f"C{number}", report["points"]
        loads = [point["load"] for point in points]
        label = report["label"]
        throughput.plot(loads, [point["tokens_per_second"] for point in points], "o-", color=colour, label=label)
        for panel, (name, _) in zip(axes[1:], PANELS, strict=True):
            for percentile, style in LINES.items():
                known = [(point["load"], point[name][percentile]) for point in points if point[name]]
                panel.plot(*zip(*known, strict=True), style, marker=".", color=colour, label=f"{label} {percentile}")
            if (limit := report["slo"][name]) is not None:
                panel.axhline(limit, color=colour, linewidth=0.8, alpha=0.5)
    throughput.set_ylabel("output tokens a second")
    for panel, (_, title) in zip(axes[1:], PANELS, strict=True):
        panel.set_ylabel(title)
        panel.set_yscale("log")
    for panel in axes:
        panel.set_xlabel(reports[0]["load"])
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=110)
