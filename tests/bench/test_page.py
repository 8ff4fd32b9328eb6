import json

import pytest

from optimus_server.bench.page import BEGIN, END
from optimus_server.cli import main

FLAGS = [
    "--like", "demo", "--variant", "demo-sdar", "--batch", "2", "--chunk", "1", "8", "auto", "--positions", "8",
    "--context", "64", "--task", "dates",
]  # fmt: skip


def page(tmp_path, document):
    command = ["bench", "page", "--work", str(tmp_path / "work"), "--document", str(document)]
    return main([*command, "--image", str(tmp_path / "plot.png"), *FLAGS])


def test_tables_and_plot_between_the_marks(tmp_path, capfd):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN}\nstale figures\n{END}\nafter\n")
    assert page(tmp_path, document) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "stale figures" not in text
    cells = json.loads((tmp_path / "work" / "demo-sdar-decode.json").read_text())["cells"]
    # Chunk 1 means nothing without shifted logits.
    assert [cell["chunk"] for cell in cells] == [8, "auto"]
    for cell in cells:
        assert f"{cell['tokens_per_second']:,.0f} ({cell['tpf']:.1f})" in text
    ratio = cells[1]["tokens_per_second"] / cells[0]["tokens_per_second"]
    assert f"| {ratio:.2f} | up to " in text
    [step] = json.loads((tmp_path / "work" / "demo-sdar-step.json").read_text())["cells"]
    assert f"| 8 | 64 | {step['step_ms']:.2f} |" in text
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    # What was measured is not measured again.
    assert capfd.readouterr().err.count("optimus bench decode") == 1
    assert page(tmp_path, document) == 0
    assert "optimus bench" not in capfd.readouterr().err


def test_a_document_without_marks_is_refused_before_anything_runs(tmp_path, capsys):
    document = tmp_path / "page.md"
    document.write_text("nothing")
    assert page(tmp_path, document) == 2
    assert BEGIN in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("flag", ["--batch", "--positions"])
def test_zero_is_refused(flag):
    with pytest.raises(SystemExit) as exit_:
        main(["bench", "page", "--work", "x", flag, "0"])
    assert exit_.value.code == 2
