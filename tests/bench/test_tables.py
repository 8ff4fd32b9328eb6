from optimus_server.bench.panels import draw
from optimus_server.bench.sections import Found
from optimus_server.bench.tables import MISSING, decode_table, serve_table, step_table, tables


def cell(rate, tpf=1.0, host=0.1):
    return {"tokens_per_second": rate, "tpf": tpf, "host_share": host}


CELLS = {
    (16, "block"): cell(900.0, 6.0), (1, "block"): cell(600.0, 6.0), (1, "auto"): cell(1234.4, 5.94, 0.25),
    (1, "1"): cell(160.0), (1, "8"): cell(617.2, 3.0),
}  # fmt: skip


def test_decode_table():
    lines = decode_table(CELLS, {}).replace(MISSING, "~").splitlines()
    assert lines == [
        "| batch | elastic | block 32 | chunk 8 | AR (chunk 1) | elastic / best fixed | waiting for host |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 1,234 (5.9) | 600 (6.0) | 617 (3.0) | 160 (1.0) | 2.00 | up to 25% |",
        "| 16 | ~ | 900 (6.0) | ~ | ~ | ~ | up to 10% |",
    ]


def test_a_twin_stands_beside():
    cells = {(3, "8"): cell(50.0), (4, "8"): cell(60.0)}
    lines = decode_table(cells, {(4, "1"): cell(40.0)}).replace(MISSING, "~").splitlines()
    assert lines[0].endswith("| AR mode (Qwen3) | elastic / best fixed | waiting for host |")
    assert lines[2] == "| 3 | 50 (1.0) | ~ | ~ | up to 10% |"
    assert lines[3] == "| 4 | 60 (1.0) | 40 (1.0) | ~ | up to 10% |"


def test_step_and_serve_tables():
    step = {"rows": 4, "width": 8, "context": 512, "step_ms": 6.114, "dense_ms": 4.25, "kv_ms": 0.07, "ratio": 1.41,
            "host_share": 0.13}  # fmt: skip
    assert step_table({"cells": [step]}).splitlines()[2] == "| 32 | 512 | 6.11 | 4.25 | 0.07 | 1.41 | 13% |"
    spread = {"p50": 1.0, "p90": 2.0, "p99": 3.0}
    point = {"load": 4.0, "requests_per_second": 9.96, "tokens_per_second": 1500.2, "ttft": spread, "tpot": None,
             "right": 30, "judged": 31}  # fmt: skip
    assert (
        serve_table({"points": [point]}).replace(MISSING, "~").splitlines()[2]
        == "| 4 | 10.0 | 1,500 | 1.0 | 3.0 | ~ | ~ | ~ | 30 of 31 |"
    )


def test_another_server_stands_beside_what_was_served_to_as_many():
    def point(load, rate):
        return {"load": load, "requests_per_second": 1.0, "tokens_per_second": rate, "ttft": None, "tpot": None,
                "right": 3, "judged": 4}  # fmt: skip

    other = {"label": "Another 1.2", "points": [point(16.0, 50.0)]}
    ours = {"points": [point(1.0, 10.0), point(16.0, 125.0)]}
    head, _, *rows = serve_table(ours, [other]).replace(MISSING, "~").splitlines()
    assert head.endswith("| right | Another 1.2: tokens/s | right | ours / its |")
    assert rows[0].endswith("| 3 of 4 | ~ | ~ | ~ |")
    assert rows[1].endswith("| 3 of 4 | 50 | 3 of 4 | 2.50 |")
    assert serve_table(ours, [other]) in tables({"demo-sdar": Found(serve=ours)}, "sdar-8b", [other])


def test_tables_go_by_variant_and_section():
    text = tables({"demo": Found({"chat": CELLS}), "demo-sdar": Found({"chat": CELLS, "story": CELLS})}, "sdar-8b")
    assert text.index("demo as sdar-8b, shifted logits") < text.index("demo-sdar as sdar-8b, no shift")
    assert text.index("**Short answers and stories") < text.index("**Stories, of")


def test_the_plot_has_a_panel_a_section(tmp_path):
    import matplotlib.figure

    figures = []
    real = matplotlib.figure.Figure.savefig

    def keep(figure, *args, **options):
        figures.append(figure)
        return real(figure, *args, **options)

    serve = {"points": [{"load": 1, "tokens_per_second": 5.0}]}
    found = {
        "demo": Found({"short": CELLS}),
        "demo-sdar": Found({"short": CELLS, "story": CELLS}, serve=serve),
        "demo-ar": Found({"short": {(1, "1"): cell(140.0)}}),
    }
    matplotlib.figure.Figure.savefig = keep
    try:
        other = {"label": "Another 1.2", "points": [{"load": 4, "tokens_per_second": 3.0}]}
        assert draw(found, tmp_path / "plot.png", [other])
    finally:
        matplotlib.figure.Figure.savefig = real
    seen = [[line.get_label() for line in panel.lines] for panel in figures[0].axes]
    lines = ["elastic", "block 32", "chunk 8", "AR (chunk 1)"]
    assert seen == [
        [*lines, "AR mode (Qwen3)"],
        lines, lines,
        ["elastic, over HTTP", "elastic, the engine alone", "Another 1.2"],
    ]  # fmt: skip
    assert not draw({"demo": Found(step={"cells": []})}, tmp_path / "none.png")
