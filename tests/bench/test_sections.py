import json

from optimus_server.bench.sections import SECTIONS, SERVED, chunks_of, find
from optimus_server.bench.workload import WORKLOADS

MACHINE = {"device": "card", "torch": "2", "optimus": "0", "date": "2026-01-01"}


def write(directory, variant, *cells):
    directory.mkdir(exist_ok=True)
    found = [
        {"workload": workload, "batch": batch, "chunk": chunk, "tokens_per_second": rate}
        for workload, batch, chunk, rate in cells
    ]
    (directory / f"{variant}-decode.json").write_text(json.dumps({"machine": MACHINE, "cells": found}))


def test_figures_of_several_runs_are_one(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, "demo", ("chat", 1, 8, 10.0), ("chat", 4, "auto", 20.0))
    write(second, "demo", ("chat", 1, 8, 99.0), ("story", 1, 8, 30.0))
    (second / "demo-serve.json").write_text(json.dumps({"points": []}))
    found = find([first, second, tmp_path / "none"], "demo")
    rates = {
        (section, *key): cell["tokens_per_second"]
        for section, cells in found.decode.items()
        for key, cell in cells.items()
    }
    assert rates == {("chat", 1, "8"): 10, ("chat", 4, "auto"): 20, ("story", 1, "8"): 30}
    assert found.serve == {"points": []}
    assert found.step is None
    assert found.machines == [MACHINE, MACHINE]
    assert found
    assert not find([first, second], "demo-sdar")


def test_each_section_is_a_workload():
    assert set(SECTIONS) <= set(WORKLOADS)
    for section in SECTIONS.values():
        assert list(section.cells) == sorted(section.cells)
        for chunks in section.cells.values():
            assert {"auto", "block", "1"} <= set(chunks.split(","))
    assert SERVED in SECTIONS


def test_variants_decode_what_they_can():
    chunks = ["auto", "block", "8", "1"]
    assert chunks_of("demo", chunks) == chunks
    assert chunks_of("demo-sdar", chunks) == ["auto", "block", "8"]
    assert chunks_of("demo-ar", chunks) == ["1"]
