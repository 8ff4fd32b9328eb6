import json

import pytest

from optimus_server.cli import main
from optimus_server.demo import MODELS


def accuracy(capsys, *flags):
    code = main(["bench", "accuracy", "--device", "cpu", *map(str, flags)])
    return code, capsys.readouterr()


def test_the_demo_model_on_its_own_tasks(tmp_path, capsys):
    figures = tmp_path / "figures.json"
    code, shown = accuracy(
        capsys,
        "--prompts",
        24,
        "--task",
        "json",
        "sort",
        "--policy",
        "block",
        "chunk",
        "--chunk",
        8,
        "auto",
        "--json",
        figures,
    )
    assert code == 0
    report = json.loads(figures.read_text())
    block, chunk, auto = report["cells"]
    assert auto["chunk"] == "auto"
    assert auto["tpf"] > 1
    assert "| chunk auto | 64 |" in shown.out
    assert (block["policy"], chunk["policy"], chunk["chunk"]) == ("block", "chunk", 8)
    for cell in report["cells"]:
        assert cell["scored"] == report["prompts"] == 24
        low, high = cell["accuracy_interval"]
        assert 0.8 < low < cell["accuracy"] <= high
        for name in ("tpf", "computed_per_token"):
            low, high = cell[f"{name}_interval"]
            assert low < cell[name] < high
        assert set(cell["tasks"]) == {"json", "sort"}
    assert chunk["tpf"] < block["tpf"]
    assert chunk["computed_per_token"] < block["computed_per_token"]
    assert "| chunk 8 | 64 |" in shown.out
    assert "| policy | sort | json |" in shown.out


def test_any_checkpoint_with_a_task_file(tmp_path, capsys, model_dir):
    tasks = tmp_path / "tasks.jsonl"
    lines = [
        {"prompt": "hello", "regex": ""},
        {"messages": [{"role": "user", "content": "hello"}], "answers": ["nobody says this"]},
        {"prompt": "fox"},
    ]
    tasks.write_text("\n".join(map(json.dumps, lines)))
    figures = tmp_path / "figures.json"
    code, shown = accuracy(
        capsys, "--model", model_dir, "--tasks", tasks, "--chunk", 1, 4, "--concurrency", 1, 2,
        "--max-new-tokens", 8, "--json", figures, "--wrong",
    )  # fmt: skip
    assert code == 0
    cells = json.loads(figures.read_text())["cells"]
    assert [(cell["chunk"], cell["concurrency"]) for cell in cells] == [(1, 1), (4, 1), (1, 2), (4, 2)]
    assert {(cell["accuracy"], cell["scored"]) for cell in cells} == {(0.5, 2)}
    assert cells[0]["tpf"] == cells[0]["computed_per_token"] == 1
    (wrong,) = [json.loads(line) for line in shown.out.splitlines() if line.startswith("{")]
    assert wrong["wanted"] == "nobody says this"


def test_nothing_scored_has_no_accuracy(tmp_path, capsys, model_dir):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "fox"}')
    code, shown = accuracy(capsys, "--model", model_dir, "--tasks", tasks, "--policy", "block", "--max-new-tokens", 4)
    assert code == 0
    assert "| block | 64 | - | - |" in shown.out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--model", "/nowhere"], "does not exist"),
        (["--chunk", "65"], "--chunk must be <= 64, twice the block size. Given: 65"),
        (["--task", "poems"], "--task poems: there are math,"),
        (["--tasks", "/nowhere"], "/nowhere cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_exit_code_2(capsys, flags, problem):
    code, shown = accuracy(capsys, "--prompts", 1, *flags)
    assert code == 2
    assert problem in shown.err


def test_a_strange_checkpoint_needs_a_task_file(capsys, model_dir):
    code, shown = accuracy(capsys, "--model", model_dir)
    assert code == 2
    assert "--tasks" in shown.err


def test_the_model_card_is_written_anew(tmp_path, capsys):
    directory = tmp_path / "demo"
    directory.mkdir()
    for file in (MODELS / "demo").iterdir():
        if file.suffix != ".md":
            (directory / file.name).symlink_to(file)
    stage = {"steps": 1, "seconds": 2.0}
    training = {"device": "a card", "torch": "2", "tokens_per_step": 3, "seed": 4, "ar": stage, "demo": stage}
    (tmp_path / "train.json").write_text(json.dumps(training))
    code, _ = accuracy(capsys, "--model", directory, "--prompts", 4, "--chunk", 32, "--card", tmp_path / "train.json")
    assert code == 0
    assert "\n| chunk 32 |" in (directory / "README.md").read_text()
