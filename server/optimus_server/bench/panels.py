"""The plot of the results page: tokens a second over the load, a panel for each section of each variant."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from optimus_server.bench.sections import SECTIONS, SERVED, TITLES, Cells, Found
from optimus_server.bench.tables import name, order

# colour, line, width
STYLES = {
    "auto": ("C0", "-", 3.0),
    "block": ("C1", "--", 2.0),
    "1": ("C3", "--", 2.0),
    "8": ("C2", "-", 1.0),
    "4": ("C4", "-", 1.0),
    "2": ("C5", "-", 1.0),
}
WIDTH, HEIGHT, ACROSS = 4.6, 3.9, 3


def draw(found: Mapping[str, Found], path: Path, against: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Write the PNG, variant by variant a panel for each section. False if there is nothing to show.

    ``against``: other servers' reports of `bench serve`, in the panel of what was measured over HTTP.
    """
    from matplotlib.figure import Figure

    twin = found["demo-ar"].decode if "demo-ar" in found else {}
    rows = {name: one for name, one in found.items() if one.decode or one.serve}
    if "demo" in rows:
        rows.pop("demo-ar", None)  # its line is in demo's panels
    shown = [(variant, section) for variant, one in rows.items() for section in SECTIONS if section in one.decode]
    shown += [(variant, "serve") for variant, one in rows.items() if one.serve]
    if not shown:
        return False
    across = min(ACROSS, len(shown))
    lines = -(-len(shown) // across)
    figure = Figure(figsize=(WIDTH * across, HEIGHT * lines), layout="constrained")
    for place, (variant, section) in enumerate(shown):
        panel, figures = figure.add_subplot(lines, across, place + 1), rows[variant]
        what = "Over HTTP" if section == "serve" else SECTIONS[section].title.replace(", ", ",\n", 1)
        panel.set_title(f"{variant} ({TITLES[variant]})\n{what}", fontsize="medium")
        if section == "serve":
            _serve(panel, figures, against)
        else:
            _lines(panel, figures.decode[section], twin.get(section, {}) if variant == "demo" else {})
        _dress(panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100)
    return True


def _lines(panel: Any, cells: Cells, twin: Cells) -> None:
    for chunk in sorted({chunk for _, chunk in cells}, key=order):
        mine = sorted((batch, cell["tokens_per_second"]) for (batch, size), cell in cells.items() if size == chunk)
        colour, line, width = STYLES.get(chunk, (None, "-", 1.0))
        panel.plot(*zip(*mine, strict=True), line, marker=".", color=colour, linewidth=width, label=name(chunk))
    if twin:
        mine = sorted((batch, cell["tokens_per_second"]) for (batch, _), cell in twin.items())
        panel.plot(*zip(*mine, strict=True), ":", marker=".", color="C6", label="AR mode (Qwen3)")


def _serve(panel: Any, figures: Found, against: Sequence[Mapping[str, Any]]) -> None:
    assert figures.serve
    panel.plot(*_served(figures.serve), "-", marker=".", color="C0", linewidth=3.0, label="elastic, over HTTP")
    alone = {key: cell for key, cell in figures.decode.get(SERVED, {}).items() if key[1] == "auto"}
    points = sorted((batch, cell["tokens_per_second"]) for (batch, _), cell in alone.items())
    if points:
        panel.plot(*zip(*points, strict=True), ":", marker=".", color="C0", label="elastic, the engine alone")
    for other, line in zip(against, cycle((":", "-.", "--"))):
        panel.plot(*_served(other), line, marker=".", color="0.45", label=other["label"])


def _served(report: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    points = report["points"]
    return [point["load"] for point in points], [point["tokens_per_second"] for point in points]


def _dress(panel: Any) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    loads = sorted({load for line in panel.lines for load in line.get_xdata()})
    panel.set(xscale="log", yscale="log", xlabel="requests at once", ylabel="tokens a second")
    panel.xaxis.set_major_locator(FixedLocator(loads))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = panel.get_ylim()
    digits = (1, 2, 5) if high > 4 * low else range(1, 10)
    panel.yaxis.set_major_locator(FixedLocator([digit * 10**zeros for zeros in range(7) for digit in digits]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.set_ylim(low, high)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small")
