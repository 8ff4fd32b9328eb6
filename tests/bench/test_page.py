import json

import pytest

from optimus_server.bench import page as pages
from optimus_server.bench.page import BEGIN, END
from optimus_server.cli import main

FLAGS = [
    "--like", "demo", "--variant", "demo-sdar", "--batch", "2", "--chunk", "1", "8", "auto", "--positions", "8",
    "--context", "64", "--section", "chat", "step", "--seconds", "0.1", "--most", "0.5", "--answers", "4",
    "--warm-up", "4", "--learn", "4",
]  # fmt: skip


def page(tmp_path, document, *flags, work="work"):
    command = ["bench", "page", "--work", str(tmp_path / work), "--document", str(document)]
    return main([*command, "--image", str(tmp_path / "plot.png"), *FLAGS, *flags])


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nstale figures\n{END}\nafter\n")
    return path


def test_tables_and_plot_between_the_marks(tmp_path, document, capfd):
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

    # What was measured is not measured again, here or in another directory.
    assert capfd.readouterr().err.count("optimus bench decode") == 1
    assert page(tmp_path, document) == 0
    assert page(tmp_path, document, "--found", str(tmp_path / "work"), work="other") == 0
    assert "optimus bench" not in capfd.readouterr().err
    assert document.read_text() == text

    # Only what is missing is measured.
    assert page(tmp_path, document, "--chunk", "8", "16", "--found", str(tmp_path / "work"), work="other") == 0
    assert "--grid chat 2 16 " in capfd.readouterr().err
    assert "| batch | elastic | chunk 16 | chunk 8 | elastic / best fixed |" in document.read_text()


def test_a_server_is_measured_and_ends(tmp_path, document):
    assert page(tmp_path, document, "--section", "step", "--serve") == 0
    [point] = json.loads((tmp_path / "work" / "demo-sdar-serve.json").read_text())["points"]
    assert (point["load"], point["requests"], point["judged"] > 20) == (2, 64, True)
    assert f"| 2 | {point['requests_per_second']:.1f} | {point['tokens_per_second']:,.0f} |" in document.read_text()
    assert "SIGTERM" in (tmp_path / "work" / "demo-sdar-serve" / "server.log").read_text()


def test_a_server_that_does_not_start_leaves_the_rest(tmp_path, document, monkeypatch, capfd):
    def fails(model, flags, directory):
        raise pages.SettingsError("no memory")

    monkeypatch.setattr(pages, "served", fails)
    assert page(tmp_path, document, "--section", "step", "--serve") == 0
    assert "optimus bench page: no memory" in capfd.readouterr().err
    assert "One step" in document.read_text()


def test_the_twin_decodes_autoregressively(tmp_path, document):
    elsewhere = tmp_path / "checkpoints"
    assert page(tmp_path, document, "--variant", "demo-ar", "--section", "chat", "--checkpoints", str(elsewhere)) == 0
    assert [path.name for path in elsewhere.iterdir()] == ["demo-ar-demo"]
    cells = json.loads((tmp_path / "work" / "demo-ar-decode.json").read_text())["cells"]
    assert [(cell["chunk"], round(cell["tpf"], 3)) for cell in cells] == [(1, 1.0)]


def test_a_process_that_hangs_is_killed(tmp_path, document, monkeypatch, capfd):
    import sys

    monkeypatch.setattr(pages, "OPTIMUS", (sys.executable, "-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(pages, "GRACE_S", 0.2)
    monkeypatch.setattr(pages, "_checkpoint", lambda args, variant: tmp_path)
    assert page(tmp_path, document, "--minutes", "0.001") == 1
    shown = capfd.readouterr().err
    assert "killed after 0 s" in shown
    assert "0.001 minutes are over" in shown
    assert "stale figures" in document.read_text()


def test_what_is_no_report_is_refused_before_anything_runs(tmp_path, document, capsys):
    other = tmp_path / "other.json"
    for text, why in (("{", "cannot be read"), ("[]", "no report of `optimus bench serve`")):
        other.write_text(text)
        assert page(tmp_path, document, "--against", str(other)) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_without_figures_nothing_is_written(tmp_path, document, capsys):
    assert page(tmp_path, document, "--no-measure") == 1
    assert "no figures" in capsys.readouterr().err
    assert "stale figures" in document.read_text()


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
