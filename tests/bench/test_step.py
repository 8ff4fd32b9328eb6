import json

import pytest

from optimus_server.cli import main


def test_a_step_and_its_floor(tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["bench", "step", "--positions", "4", "40", "--context", "64", "512", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert [(cell["rows"], cell["context"]) for cell in figures["cells"]] == [(1, 64), (5, 64), (1, 512), (5, 512)]
    assert figures["machine"]["copy_bytes_per_s"] > 1e8
    for cell in figures["cells"]:
        floor = cell["dense_ms"] + cell["kv_ms"]
        # A busy machine may disturb either.
        assert 0 < floor < 3 * cell["step_ms"]
        assert cell["ratio"] == pytest.approx(cell["step_ms"] / floor)
        assert 0 < cell["device_ms"] <= cell["step_ms"]
    assert figures["cells"][2]["kv_ms"] > figures["cells"][0]["kv_ms"]
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4


def test_an_unusable_checkpoint_is_exit_code_2(tmp_path, capsys):
    assert main(["bench", "step", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
