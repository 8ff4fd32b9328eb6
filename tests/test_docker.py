"""The container's files agree with the code. The image itself is built where a Docker engine is."""

import json
import re
from pathlib import Path

import yaml

from optimus_server.flags import flag, load, variable
from optimus_server.settings import Settings
from tests.test_house import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
HERE = ROOT / ".docker"


def environment():
    [line] = re.findall(r"^ENV (.*)$", DOCKERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in line.split())


def compose(name):
    return yaml.safe_load((HERE / name).read_text())


def test_what_the_image_copies_is_what_the_context_has():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    copied = {name for line in lines for name in line.split()}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_settings_of_the_image_exist():
    names = set(environment()) - {"PATH", "HF_HOME", "PYTHONUNBUFFERED", "XDG_STATE_HOME"}
    assert names <= {variable(name) for name in Settings.model_fields}
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0])
    assert entry[:2] == ["optimus", "serve"]
    assert set(entry[2::2]) <= {flag(name) for name in Settings.model_fields}


def test_what_a_container_keeps_is_on_its_volume():
    [volume] = re.findall(r"^VOLUME (.*)$", DOCKERFILE, re.MULTILINE)
    kept = {name: environment()[name] for name in ("OPTIMUS_LOG_DB", "XDG_STATE_HOME", "HF_HOME")}
    assert all(Path(place).is_relative_to(volume) for place in kept.values())
    # SQLite needs its directory, for the two files beside the log.
    assert Path(kept["OPTIMUS_LOG_DB"]).parent != Path(volume)
    settings, _ = load({}, environment())
    assert settings.log_place == kept["OPTIMUS_LOG_DB"]


def test_the_compose_files_fit_the_image_and_each_other():
    """What Compose's own schema would find, as far as these files use it, and what it would not."""
    whole, gpu = compose("compose.yaml"), compose("compose.gpu.yaml")
    services, volumes = whole["services"], whole["volumes"]
    assert set(whole) == {"services", "volumes"}
    known = {
        "build", "command", "depends_on", "deploy", "environment", "image", "ports", "restart", "shm_size",
        "stop_grace_period", "volumes",
    }  # fmt: skip
    for service in (*services.values(), *gpu["services"].values()):
        assert set(service) <= known
    for service in services.values():
        assert ("image" in service) != ("build" in service)
        assert set(service.get("depends_on", ())) <= set(services)
        for mount in service["volumes"]:
            source, target, *_ = mount.split(":")
            assert Path(target).is_absolute()
            assert (HERE / source).is_file() if source.startswith("./") else source in volumes
    assert set(gpu["services"]) <= set(services)
    server = services["optimus"]
    arguments = re.findall(r"^ARG (\w+)=(\w+)", DOCKERFILE, re.MULTILINE)
    assert [f"${{{name}:-{default}}}" for name, default in set(arguments)] == list(server["build"]["args"].values())
    assert (HERE / server["build"]["context"]).resolve() == ROOT.resolve()
    assert server["ports"] == [f"8080:{environment()['PORT']}"]
    assert server["volumes"] == ["data:/data"]
    assert int(server["stop_grace_period"].removesuffix("s")) > Settings().graceful_termination_timeout


def test_prometheus_and_grafana_find_each_other():
    scraped = compose("prometheus.yml")["scrape_configs"][0]["static_configs"][0]
    assert scraped == {"targets": [f"optimus:{environment()['PORT']}"], "labels": {"container": "optimus"}}
    [source] = compose("grafana/datasource.yaml")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    [provider] = compose("grafana/boards.yaml")["providers"]
    mounts = [mount.split(":")[1] for mount in compose("compose.yaml")["services"]["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/optimus.json" in mounts


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
