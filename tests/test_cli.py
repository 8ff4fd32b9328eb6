"""The command line: what a person sees, exit codes, and the end of a server."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from optimus_server import __version__, cli
from optimus_server.store.queries import Log

COMMAND = [sys.executable, "-m", "optimus_server.cli"]


def run(*arguments, **environ):
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=os.environ | environ, check=False
    )


class Served:
    """``optimus serve`` in a process of its own, its lines read as they come."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([*COMMAND, "serve", *arguments, "-p", "0"], stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.ready = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.ready.wait(60), self.lines

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if found := re.search(r"http://127\.0\.0\.1:\d+(?!.*/v1)", line):
                self.url = found[0]
                self.ready.set()
        self.ready.set()

    def stream(self, tokens, seen):
        """Read a stream; ``seen`` gets the first part, then the whole text."""
        body = {"inputs": "hello", "parameters": {"max_new_tokens": tokens, "diffusion": {"chunk": 1}}}
        with httpx.stream("POST", self.url + "/generate_stream", json=body, timeout=60) as response:
            text = ""
            for part in response.iter_text():
                text += part
                seen.append(text)

    def end(self, timeout=30):
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self._reader.join()
            self.process.stderr.close()


@pytest.fixture
def served(model_dir):
    servers = []

    def start(*arguments):
        servers.append(Served(str(model_dir), *arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.end()


def test_kill_9_leaves_the_rows_of_what_was_answered(served, tmp_path):
    server = served("--log-db", str(tmp_path / "log.db"))
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 8}}
    for number in range(5):
        headers = {"x-request-id": f"{number}"}
        assert httpx.post(server.url + "/generate", json=body, headers=headers, timeout=60).status_code == 200
    time.sleep(1.0)
    server.process.kill()
    server.end()
    with Log(str(tmp_path / "log.db")) as log:
        assert {row["request_id"] for row in log.requests()} == set("01234")
        assert all(log.request(row["id"]).steps for row in log.requests())
        assert log.request("0").instance["stopped_us"] is None


def test_version_and_help_need_no_torch():
    code = (
        "import sys\nfrom optimus_server.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'starlette'} & set(sys.modules)"
    )
    for argument in ("--version", "--help"):
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
        assert __version__ in done.stdout or "serve" in done.stdout
    done = subprocess.run([sys.executable, "-c", code, "serve", "--help"], capture_output=True, text=True, check=True)
    assert "--max-concurrent-requests" in done.stdout
    assert "--num-shard" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environ", "parts"),
    [
        (["--port", "99999"], {}, ["--port", "65535"]),
        (["--chunk", "x"], {}, ["--chunk", "integer"]),
        ([], {"PORT": "http"}, ["PORT", "http"]),
        (["--max-input-tokens", "9", "--max-total-tokens", "9"], {}, ["`max_input_tokens`"]),
        (["/no/such/model"], {}, ["/no/such/model", "does not exist"]),
        (["a", "--model-id", "b"], {}, ["given twice"]),
        (["--hostname", "no-such-host.invalid"], {}, ["--hostname", "cannot listen"]),
    ],
)
def test_bad_settings_end_with_2_and_one_line(arguments, environ, parts):
    done = (
        run("serve", *arguments, "-p", "0", **environ)
        if "--port" not in arguments and not environ
        else run("serve", *arguments, **environ)
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("optimus: ")
    assert all(part in last for part in parts)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["demo", "train"], "--smoke"),
        (["demo", "eval"], "--prompts"),
        (["bench", "accuracy"], "--prompts"),
        (["bench", "decode"], "--batch"),
        (["bench", "serve"], "--rate"),
    ],
)
def test_other_commands_are_mounted(command, word):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert word in done.stdout


def test_unknown_flags_and_commands_end_with_2():
    assert run("serve", "--no-such-flag").returncode == 2
    assert run("fly").returncode == 2
    assert run().returncode == 2


def test_a_taken_port_is_said_before_the_model_is_loaded(model_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", str(model_dir), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "already in use" in done.stderr
    assert "Loading" not in done.stderr


def test_start_up_and_drain(served):
    """SIGTERM: the running stream ends whole, new requests and /health get 503, the exit code is 0."""
    server = served("--num-shard", "1")
    text = "\n".join(server.lines)
    for part in ("--num-shard means nothing", "Loading", "block size 8", "KV pool", "Warm-up", "Ready in"):
        assert part in text
    seen = []
    reader = threading.Thread(target=server.stream, args=(900, seen))
    reader.start()
    while not seen:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    if reader.is_alive():
        refused = httpx.post(server.url + "/generate", json={"inputs": "x"})
        assert (refused.status_code, httpx.get(server.url + "/health").status_code) == (503, 503)
    reader.join()
    assert '"generated_text":"' in seen[-1]
    assert server.end() == 0
    assert any("curl -N" in line for line in server.lines)
    assert not any("Traceback" in line or "rror" in line for line in server.lines)


def test_sigterm_with_fifty_streams_open_ends_them_all(served):
    server = served("--max-batch-size", "64")
    seen = [[] for _ in range(50)]
    readers = [threading.Thread(target=server.stream, args=(200, texts)) for texts in seen]
    for reader in readers:
        reader.start()
    while not all(seen):
        time.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    assert all(reader.is_alive() for reader in readers)
    for reader in readers:
        reader.join()
    assert all('"generated_text":"' in texts[-1] for texts in seen)
    assert server.end() == 0
    assert not any("Traceback" in line for line in server.lines)


def test_what_does_not_end_in_time_is_told(served):
    server = served("-g", "0")
    seen = []
    reader = threading.Thread(target=server.stream, args=(900, seen))
    reader.start()
    while not seen:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    reader.join()
    assert server.end() == 0
    last = json.loads(seen[-1].strip().splitlines()[-1].removeprefix("data: "))
    assert last == {"error": "Server is shutting down", "error_type": "generation"} or last["generated_text"]


def test_a_second_signal_does_not_wait(served):
    server = served()
    seen = []
    reader = threading.Thread(target=server.stream, args=(900, seen))
    reader.start()
    while not seen:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.15)
    server.process.send_signal(signal.SIGTERM)
    reader.join()
    assert server.end(5) == 0
    assert "Server is shutting down" in seen[-1] or '"generated_text":"' in seen[-1]
    assert not any("Traceback" in line for line in server.lines)


def test_json_log(served):
    server = served("--json-output")
    body = {"inputs": "x", "parameters": {"max_new_tokens": 3}}
    answer = httpx.post(server.url + "/generate", json=body, timeout=30)
    server.process.send_signal(signal.SIGINT)
    assert server.end() == 0
    lines = [json.loads(line) for line in server.lines]
    usual = {"timestamp", "level", "message", "target"}
    assert all(usual <= set(line) <= usual | {"request_id"} for line in lines)
    [answered] = [line for line in lines if line["message"].startswith("POST /generate: ")]
    assert answered["request_id"] == answer.headers["x-request-id"]


def test_errors_inside_a_command_are_one_line(capsys, monkeypatch):
    from optimus_server.errors import ModelError

    def fail(args):
        raise ModelError("no such thing")

    monkeypatch.setattr(cli, "_serve", fail)
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == "optimus: no such thing\n"
