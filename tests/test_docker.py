"""The container's files agree with the code. The image itself is built where a Docker engine is."""

import json
import re
from pathlib import Path

from optimus_server.flags import flag, variable
from optimus_server.settings import Settings
from tests.test_house import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_what_the_image_copies_is_what_the_context_has():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_settings_of_the_image_exist():
    [line] = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    names = {pair.split("=")[0] for pair in line.split()} - {"PATH", "HF_HOME", "PYTHONUNBUFFERED"}
    assert names <= {variable(name) for name in Settings.model_fields}
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0])
    assert entry[:2] == ["optimus", "serve"]
    assert set(entry[2::2]) <= {flag(name) for name in Settings.model_fields}


def test_torch_is_the_one_of_the_project():
    project = (ROOT / "pyproject.toml").read_text()
    [wanted] = re.findall(r'pip install --no-cache-dir "(torch[^"]*)"', DOCKERFILE)
    assert f'"{wanted}"' in project


def test_the_board_asks_for_metrics_that_exist(scripted):
    live = scripted("hello")
    live.post("/generate", {"inputs": "x"})
    live.post("/generate", {"inputs": ""})
    text = live.get("/metrics").text
    known = set(re.findall(r"^([a-z_]+)", text, re.MULTILINE))
    board = json.loads(Path(ROOT / ".docker/grafana/optimus.json").read_text())
    asked = {
        name for panel in board["panels"] for target in panel["targets"]
        for name in re.findall(r"\b((?:tgi|optimus)_[a-z_]+)", target["expr"])
    }  # fmt: skip
    assert len(asked) > 15
    assert asked <= known
