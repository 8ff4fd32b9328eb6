import builtins
import json

import pytest

from optimus_server.cli import main
from optimus_server.demo import MODELS
from optimus_server.text.tokenizer import Tokenizer


def serve(capsys, url, *flags):
    code = main(["bench", "serve", "--url", url, *map(str, flags)])
    return code, capsys.readouterr()


@pytest.fixture
def tasks(tmp_path):
    """A task file; the scripted server says "hello world" to everybody."""

    def write(*lines):
        path = tmp_path / "tasks.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        return path

    return write


def test_the_demo_model_in_a_closed_loop(tmp_path, capsys, demo_server):
    figures, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    code, shown = serve(
        capsys, demo_server.url, "--concurrency", 1, 4, "--requests", 10, "--task", "json", "sort",
        "--slo-ttft-ms", 60_000, "--slo-tpot-ms", 0.001, "--json", figures, "--plot", plot, "--label", "demo",
    )  # fmt: skip
    assert code == 0, shown.err
    report = json.loads(figures.read_text())
    assert report["server"]["model"] == "optimus-demo"
    assert report["load"] == "concurrent clients"
    for point, clients in zip(report["points"], (1, 4), strict=True):
        assert (point["load"], point["requests"], point["refused"]) == (clients, 10, 0)
        assert point["right"] >= 9
        assert point["counted"] == "usage"
        assert point["tokens_per_second"] > point["requests_per_second"] > 0
        assert 0 < point["ttft"]["p50"] <= point["e2e"]["p50"] <= point["e2e"]["p99"]
        assert point["attainment"] < 1
    assert len([line for line in shown.out.splitlines() if line.split()[:1] in (["1"], ["4"])]) == 2
    assert plot.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    code, _ = serve(
        capsys, demo_server.url, "--concurrency", 2, "--requests", 3, "--task", "json", "--plot", again,
        "--against", figures,
    )  # fmt: skip
    assert code == 0
    assert again.read_bytes().startswith(b"\x89PNG")


def test_the_demo_model_in_an_open_loop_through_tgis_route(tmp_path, capsys, demo_server):
    figures = tmp_path / "figures.json"
    code, shown = serve(
        capsys, demo_server.url + "/v1", "--api", "tgi", "--rate", 20, "--requests", 12, "--task", "json",
        "--extra", '{"diffusion": {"chunk": 32}}', "--json", figures,
    )  # fmt: skip
    assert code == 0, shown.err
    report = json.loads(figures.read_text())
    (point,) = report["points"]
    assert (report["load"], point["load"], point["requests"]) == ("requests a second", 20, 12)
    assert point["right"] >= 11
    assert point["counted"] == "usage"
    # answers of about 20 tokens, so both APIs count alike
    assert 100 < point["tokens"] < 1000


def test_tokens_of_the_text_instead_of_the_servers_usage(tmp_path, capsys, scripted, tasks):
    live, path, figures = scripted("hello world"), tasks({"prompt": "a"}), tmp_path / "figures.json"
    flags = ("--tasks", path, "--concurrency", 1, "--requests", 3, "--max-tokens", 20, "--json", figures)
    code, shown = serve(capsys, live.url, *flags, "--count", "text", "--tokenizer", MODELS / "demo")
    assert code == 0, shown.err
    (point,) = json.loads(figures.read_text())["points"]
    tokens = len(Tokenizer.load(MODELS / "demo").encode("hello world"))
    assert (point["tokens"], point["counted"]) == (3 * tokens, "text")
    assert "tokens are those of the answers' text" in shown.out
    code, shown = serve(capsys, live.url, *flags, "--count", "text")
    assert code == 2
    assert "--tokenizer" in shown.err


def test_a_task_file_goes_round(tmp_path, capsys, scripted, tasks):
    live = scripted("hello world")
    path = tasks({"prompt": "a", "answers": ["hello world"]}, {"prompt": "b"})
    figures = tmp_path / "figures.json"
    code, shown = serve(
        capsys, live.url, "--tasks", path, "--concurrency", 1, "--requests", 5, "--max-tokens", 20, "--json", figures
    )
    assert code == 0, shown.err
    (point,) = json.loads(figures.read_text())["points"]
    assert (point["right"], point["judged"]) == (3, 3)
    assert [request.prompt_len for request in live.engine.seen] == [1] * 7


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"prompt": "a", "answers": ["good bye"]}, "load 2: only 0 of 4 answers are right"),
        ({"messages": [{"role": "tool", "content": "a"}], "answers": ["hello world"]}, "requests failed: HTTP 4"),
    ],
)
def test_no_figures_from_wrong_or_missing_answers(capsys, scripted, tasks, line, complaint, tmp_path):
    live = scripted("hello world")
    figures = tmp_path / "figures.json"
    code, shown = serve(
        capsys, live.url, "--tasks", tasks(line), "--concurrency", 2, "--requests", 4, "--max-tokens", 20,
        "--json", figures,
    )  # fmt: skip
    assert code == 1
    assert shown.out == ""
    assert complaint in shown.err
    assert not figures.exists()


def test_few_right_answers_are_enough_if_one_says_so(capsys, scripted, tasks):
    live = scripted("hello world")
    path = tasks({"prompt": "a", "answers": ["hello world"]}, {"prompt": "a", "answers": ["good bye"]})
    flags = ["--tasks", path, "--concurrency", 1, "--requests", 4, "--max-tokens", 20]
    assert serve(capsys, live.url, *flags)[0] == 1
    assert serve(capsys, live.url, *flags, "--right", 0.5)[0] == 0


def test_a_full_server_refuses_some(tmp_path, capsys, scripted, tasks):
    live = scripted("hello world", step_s=0.03, max_concurrent_requests=2)
    figures = tmp_path / "figures.json"
    code, shown = serve(
        capsys, live.url, "--tasks", tasks({"prompt": "a", "answers": ["hello world"]}), "--rate", 200,
        "--requests", 30, "--max-tokens", 20, "--json", figures,
    )  # fmt: skip
    assert code == 0, shown.err
    (point,) = json.loads(figures.read_text())["points"]
    assert 0 < point["refused"] < 30
    assert point["attainment"] == pytest.approx(1 - point["refused"] / 30)
    assert point["right"] == point["judged"] == 30 - point["refused"]


def test_a_server_that_refuses_everything_has_no_figures(capsys, scripted, tasks):
    live = scripted("hello world")
    with live.service.permit():
        live.service.draining = True
        path = tasks({"prompt": "a"})
        code, shown = serve(capsys, live.url, "--tasks", path, "--concurrency", 1, "--warm-up", 0, "--max-tokens", 20)
    live.service.draining = False
    assert code == 1
    assert "all 64 requests were refused: HTTP 503" in shown.err


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "optimus bench serve: "),
        (["--tasks", "/nowhere"], "/nowhere cannot be read"),
        (["--against", "/nowhere"], "/nowhere"),
        (["--task", "poems"], "--task poems"),
    ],
)
def test_what_cannot_be_measured_is_exit_code_2(capsys, scripted, flags, problem):
    url = scripted().url if flags else "http://127.0.0.1:1"
    code, shown = serve(capsys, url, *flags)
    assert code == 2
    assert problem in shown.err


def test_chats_of_a_file_need_a_tokenizer_on_tgis_routes(capsys, scripted, tasks):
    path = tasks({"messages": [{"role": "user", "content": "a"}]})
    code, shown = serve(capsys, scripted().url, "--tasks", path, "--api", "tgi")
    assert code == 2
    assert "--tokenizer" in shown.err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--concurrency", "0"),
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--requests", "-1"),
        ("--extra", "[]"),
        ("--extra", "{"),
    ],
)
def test_bad_flags(capsys, flag, value):
    with pytest.raises(SystemExit) as exit_:
        serve(capsys, "http://127.0.0.1:1", flag, value)
    assert exit_.value.code == 2


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(capsys, monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    code, shown = serve(capsys, "http://127.0.0.1:1", "--plot", tmp_path / "plot.png")
    assert code == 2
    assert "pip install 'optimus-dllm[bench]'" in shown.err
