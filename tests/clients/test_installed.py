"""Clients that cannot live in the test environment, over a real socket; ``tests/clients/prepare`` installs them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
INSTALLED = HERE / "installed"


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def need(path):
    """Skip without the client; in CI, where OPTIMUS_CLIENTS is set, that is a failure."""
    if not path.exists():
        assert "OPTIMUS_CLIENTS" not in os.environ, f"{path} is not there"
        pytest.skip("run tests/clients/prepare first")


def answer(real, path, body):
    return httpx.post(real.url + path, json=body | {"temperature": 0, "max_tokens": 12}, timeout=30).json()["choices"][
        0
    ]


def test_javascript(real):
    need(INSTALLED / "node_modules")
    node = shutil.which("node") or HERE.parent.parent / ".venv/bin/node"
    got = run(node, HERE / "check.mjs", real.url)
    chat = answer(real, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]})
    said, completed = chat["message"]["content"], answer(real, "/v1/completions", {"prompt": "hello"})["text"]
    assert len(said) > 3
    assert len(completed) > 3
    assert got.pop("openaiError") == [422, "max_tokens"]
    expected = {name: completed if "Completion" in name or "Generation" in name else said for name in got}
    assert got == expected
    assert len(got) == 17


def test_text_generation(real):
    python = INSTALLED / "text-generation/bin/python"
    need(python)
    got = run(python, HERE / "check_text_generation.py", real.url)
    assert got["text"] == got["stream"] == got["end"] != ""
    assert got["finish"] in ("length", "eos_token")
    assert got["prefill"] >= 1
    assert got["top"] == [2] * got["tokens"]
    assert got["others"] == 1
    assert got["error"].startswith("Input validation error: `inputs` tokens + `max_new_tokens` must be <= ")
