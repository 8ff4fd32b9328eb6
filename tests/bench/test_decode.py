import json

import pytest

from optimus_server.cli import main


def bench(capsys, *flags):
    code = main(["bench", "decode", "--task", "json", "--rounds", "1", "--batch", "2", *flags])
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
    assert len(shown.out.splitlines()) == 2 + 2


def test_nothing_is_reported_when_answers_are_wrong(capsys, monkeypatch):
    monkeypatch.setattr("optimus_server.demo.tasks.Example.accepts", lambda self, text: False)
    code, shown = bench(capsys, "--chunk", "32")
    assert code == 1
    assert shown.out == ""
    assert "only 0 of 24" in shown.err


@pytest.mark.parametrize("flag", ["--batch", "--chunk", "--rounds"])
def test_zero_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        bench(capsys, flag, "0")
    assert exit_.value.code == 2


def test_an_unusable_checkpoint_is_exit_code_2(tmp_path, capsys):
    assert main(["bench", "decode", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
