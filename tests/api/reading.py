"""What the readers are sent to read; see ``readers``, which knows nothing of servers."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests import web
from tests.api.readers import Plan

SHORT = [{"role": "user", "content": "x"}]
LONG = [{"role": "user", "content": "What is 17 plus 30? Answer in one word. " * 6}]
"""About 128 tokens of the demo model."""

CHAT = "/v1/chat/completions"
ASKED = {"max_tokens": "STEPS", "stream": True}
LETTER = r'"content":"([a-z])"'
ROUTES: dict[str, tuple[str, dict[str, Any], str]] = {
    "tgi": ("/generate_stream", {"inputs": "x", "parameters": {"max_new_tokens": "STEPS"}}, r'"text":"([a-z])"'),
    "chat": (CHAT, {"messages": SHORT, **ASKED}, LETTER),
    "question": (
        CHAT,
        {"messages": LONG, "temperature": 0, "stream_options": {"include_usage": True}, **ASKED},
        LETTER,
    ),
}


def plan(live: web.Live, route: str, count: int, steps: tuple[int, int], seconds: float, clock: str) -> Plan:
    path, body, pattern = ROUTES[route]
    text = json.dumps(body).replace('"STEPS"', "STEPS")
    return Plan(int(live.url.rsplit(":", 1)[1]), path, text, pattern, count, seconds, *steps, clock)


def read(plan: Plan) -> tuple[dict[str, Any], list[float]]:
    """What the readers found, and this process' memory while they read, in MiB."""
    command = [sys.executable, str(Path(__file__).with_name("readers.py")), json.dumps(asdict(plan))]
    rss_mib = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while True:
            try:
                told, _ = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                rss_mib.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20)
    assert process.returncode == 0
    return json.loads(told), rss_mib
