"""The tables of the results page, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optimus_server.bench.sections import SECTIONS, SERVED, TITLES, Cells, Found

NAMES = {"block": "block 32", "auto": "elastic", "1": "AR (chunk 1)"}
MISSING = "\u2013"


def name(chunk: str) -> str:
    """What a column or a line is called."""
    return NAMES.get(chunk, f"chunk {chunk}")


def order(chunk: str) -> tuple[int, int]:
    """Elastic, whole blocks, then chunk sizes from large to small."""
    special = ["auto", "block"]
    return (special.index(chunk), 0) if chunk in special else (len(special), -int(chunk))


def tables(found: Mapping[str, Found], like: str, against: Sequence[Mapping[str, Any]] = ()) -> str:
    """All tables of all variants; ``against`` are other servers' reports of `bench serve`."""
    parts = []
    for variant, figures in found.items():
        if variant == "demo-ar" and "demo" in found:
            continue  # its figures stand beside demo's
        title = variant if like == "demo" else f"{variant} as {like}"
        twin = found["demo-ar"].decode if variant == "demo" and "demo-ar" in found else {}
        for section, cells in sorted(figures.decode.items(), key=lambda item: list(SECTIONS).index(item[0])):
            parts.append(
                f"\n**{SECTIONS[section].title}: {title}, {TITLES[variant]}.** Tokens a second; in brackets TPF.\n"
            )
            parts.append("\n" + decode_table(cells, twin.get(section, {})))
        if figures.serve:
            parts.append(f"\n**Served over HTTP: {title}, elastic.** {SECTIONS[SERVED].title}.\n")
            parts.append("\n" + serve_table(figures.serve, against))
        if figures.step:
            parts.append(f"\n**One step: {title}, rows of 8 positions.**\n\n" + step_table(figures.step))
    return "".join(parts)


def decode_table(cells: Cells, twin: Cells) -> str:
    """Tokens a second over the batch; ``twin`` has those of AR mode."""
    chunks = sorted({chunk for _, chunk in cells}, key=order)
    head = ["batch", *map(name, chunks)]
    head += ["AR mode (Qwen3)"] if twin else []
    head += ["elastic / best fixed", "waiting for host"]
    rows = []
    for batch in sorted({batch for batch, _ in cells}):
        mine = {chunk: cells[batch, chunk] for chunk in chunks if (batch, chunk) in cells}
        row = [str(batch), *(_rate(mine.get(chunk)) for chunk in chunks)]
        row += [_rate(twin.get((batch, "1")))] if twin else []
        row += [_ratio(mine), f"up to {max(cell['host_share'] for cell in mine.values()):.0%}"]
        rows.append(row)
    return _table(head, rows)


def _rate(cell: Mapping[str, Any] | None) -> str:
    return f"{cell['tokens_per_second']:,.0f} ({cell['tpf']:.1f})" if cell else MISSING


def _ratio(cells: Mapping[str, Mapping[str, Any]]) -> str:
    fixed = [cell["tokens_per_second"] for chunk, cell in cells.items() if chunk != "auto"]
    return f"{cells['auto']['tokens_per_second'] / max(fixed):.2f}" if "auto" in cells and fixed else MISSING


def step_table(report: Mapping[str, Any]) -> str:
    """Steps against their floor."""
    head = ["positions", "context", "step, ms", "floor: products, ms", "KV, ms", "step / floor", "waiting for host"]
    return _table(
        head,
        (
            [
                str(cell["rows"] * cell["width"]), str(cell["context"]), f"{cell['step_ms']:.2f}",
                f"{cell['dense_ms']:.2f}", f"{cell['kv_ms']:.2f}", f"{cell['ratio']:.2f}",
                f"{max(0.0, cell['host_share']):.0%}",
            ]
            for cell in report["cells"]
        ),
    )  # fmt: skip


def serve_table(report: Mapping[str, Any], against: Sequence[Mapping[str, Any]] = ()) -> str:
    """Throughput and latencies over the clients, and the throughput of other servers with as many."""
    head = ["clients", "requests/s", "tokens/s", "TTFT, ms: p50", "p99", "TPOT, ms: p50", "p90", "p99", "right"]
    for other in against:
        head += [f"{other['label']}: tokens/s", "right", "ours / its"]
    rows = []
    for point in report["points"]:
        rate = point["tokens_per_second"]
        row = [f"{point['load']:g}", f"{point['requests_per_second']:.1f}", f"{rate:,.0f}"]
        row += [_ms(point["ttft"], which) for which in ("p50", "p99")]
        row += [_ms(point["tpot"], which) for which in ("p50", "p90", "p99")]
        row += [f"{point['right']} of {point['judged']}"]
        for other in against:
            same = next((its for its in other["points"] if its["load"] == point["load"]), None)
            row += [MISSING] * 3 if same is None else [
                f"{same['tokens_per_second']:,.0f}", f"{same['right']} of {same['judged']}",
                f"{rate / same['tokens_per_second']:.2f}",
            ]  # fmt: skip
        rows.append(row)
    return _table(head, rows)


def _ms(spread: Mapping[str, float] | None, which: str) -> str:
    return f"{spread[which]:.1f}" if spread else MISSING


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
