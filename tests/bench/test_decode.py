import json
import re

import pytest

from optimus_server.cli import main

SHORT = [
    "--task", "json", "--rounds", "1", "--batch", "2", "--seconds", "0.1", "--warm-up", "5", "--learn", "5",
    "--answers", "8",
]  # fmt: skip


def bench(capsys, *flags):
    code = main(["bench", "decode", *SHORT, *flags])
    return code, capsys.readouterr()


def test_figures_of_each_cell(tmp_path, capsys):
    code, shown = bench(capsys, "--chunk", "8", "32", "--json", str(tmp_path / "figures.json"))
    assert code == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    small, large = figures["cells"]
    assert (small["chunk"], large["chunk"]) == (8, 32)
    assert 1 < small["tpf"] < large["tpf"]
    for cell in figures["cells"]:
        assert cell["tokens_per_second"] == pytest.approx(cell["tokens"] / cell["seconds"])
        assert cell["right"] >= 0.9 * cell["judged"] > 0
    assert figures["machine"]["peak_memory_mb"] < 2048
    assert len(shown.out.splitlines()) == 3 + 2


def test_nothing_is_reported_when_answers_are_wrong(capsys, monkeypatch):
    monkeypatch.setattr("optimus_server.demo.tasks.Example.accepts", lambda self, text: False)
    code, shown = bench(capsys, "--chunk", "32")
    assert code == 1
    assert shown.out == ""
    assert "only 0 of " in shown.err


@pytest.mark.parametrize("flag", ["--batch", "--chunk", "--rounds"])
def test_zero_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench(capsys, flag, "0")
    assert exit_.value.code == 2


def test_an_unusable_checkpoint_is_exit_code_2(tmp_path, capsys):
    assert main(["bench", "decode", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_cells_of_several_workloads_are_kept_and_the_others_measured(tmp_path, capsys):
    file = tmp_path / "figures.json"
    flags = ["--most", "1", "--json", str(file), "--resume"]
    assert bench(capsys, "--grid", "chat", "2", "16", *flags)[0] == 0
    first = json.loads(file.read_text())
    code, shown = bench(capsys, "--grid", "chat", "2", "16,auto", "--grid", "story", "1", "32", *flags)
    assert code == 0
    report = json.loads(file.read_text())
    keys = [(cell["workload"], cell["batch"], cell["chunk"]) for cell in report["cells"]]
    assert keys == [("chat", 2, 16), ("chat", 2, "auto"), ("story", 1, 32)]
    assert report["cells"][0] == first["cells"][0]
    assert "chat, batch 2, chunk 16" not in shown.err
    assert report["workloads"]["chat"] == "all tasks, prompts of 136 tokens, answers of 18 tokens or more"


def test_no_cell_is_begun_when_the_budget_is_spent(tmp_path, capsys):
    code, shown = bench(capsys, "--chunk", "16", "32", "--budget", "0", "--json", str(tmp_path / "figures.json"))
    assert code == 0
    assert shown.out == ""
    assert "2 cells are left out" in shown.err


def test_a_cell_that_fails_leaves_the_others(capsys, monkeypatch):
    from optimus_server.bench import decode

    real = decode.measure

    def fails_at_16(*args):
        if args[-1] == 16:
            raise RuntimeError("out of memory")
        return real(*args)

    monkeypatch.setattr(decode, "measure", fails_at_16)
    code, shown = bench(capsys, "--chunk", "16", "32")
    assert code == 1
    assert "no figures: json, batch 2, chunk 16: out of memory" in shown.err
    assert [line.split()[:2] for line in shown.out.splitlines()[3:]] == [["2", "32"]]


@pytest.mark.parametrize("grid", [("poems", "1", "8"), ("chat", "one", "8"), ("chat", "1", "0")])
def test_a_grid_that_is_none_is_refused(capsys, grid):
    code, shown = bench(capsys, "--grid", *grid)
    assert code == 2
    assert "optimus bench decode: " in shown.err


def test_a_workload_that_the_checkpoint_cannot_hold_is_refused(capsys):
    code, shown = bench(capsys, "--grid", "long", "1", "8")
    assert code == 2
    assert re.search(r"long needs 2\d\d\d positions, demo allows 2048", shown.err)
