import os
import sys

import httpx
import pytest

from optimus_server.bench import served
from optimus_server.demo import MODELS
from optimus_server.errors import SettingsError

FLAGS = ["--no-playground", "--no-profile", "--log-db", "off", "--max-batch-size", "2"]


def test_a_server_runs_while_it_is_wanted(tmp_path):
    with served.served(MODELS / "demo", FLAGS, tmp_path) as url:
        body = {"inputs": "<|user|>What is a chunk?<|assistant|>", "parameters": {"max_new_tokens": 5}}
        answer = httpx.post(f"{url}/generate", json=body, trust_env=False)
        assert answer.json()["generated_text"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)
    assert "Ready in" in (tmp_path / "server.log").read_text()


def test_a_server_is_stopped_when_the_benchmark_fails(tmp_path, monkeypatch):
    pids = tmp_path / "pid"
    command = f"import os, http.server as h; open({str(pids)!r}, 'w').write(str(os.getpid()))\n" + SERVER
    monkeypatch.setattr(served, "OPTIMUS", (sys.executable, "-c", command))
    with pytest.raises(KeyError), served.served(tmp_path, [], tmp_path):
        raise KeyError
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text()), 0)


def test_one_that_does_not_heed_is_killed(tmp_path, monkeypatch):
    command = "import signal, http.server as h; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    monkeypatch.setattr(served, "OPTIMUS", (sys.executable, "-c", command))
    monkeypatch.setattr(served, "STOP_S", 0.2)
    with served.served(tmp_path, [], tmp_path) as url:
        assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_why_a_server_did_not_start_is_told(tmp_path):
    with (
        pytest.raises(SettingsError, match=r"exit code 2: .*config\.json"),
        served.served(tmp_path, ["--log-db", "off", "--no-playground"], tmp_path),
    ):
        pass


def test_patience_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(served, "OPTIMUS", (sys.executable, "-c", "import time; time.sleep(60)"))
    with (
        pytest.raises(SettingsError, match=r"did not answer in 0\.3 s: nothing in "),
        served.served(tmp_path, [], tmp_path, patience_s=0.3),
    ):
        pass


# Stands in for optimus: answers /health on the port that it is given, with 200.
SERVER = """
import sys
class Handler(h.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
h.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
