"""A server of its own for a benchmark: started, waited for, and stopped whatever happens."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from optimus_server.errors import SettingsError

OPTIMUS = (sys.executable, "-c", "import sys; from optimus_server.cli import main; sys.exit(main(sys.argv[1:]))")
"""The command ``optimus``, also where it is not installed."""

# What a stop may take before the process is killed.
STOP_S = 15.0


@contextmanager
def served(model: Path, flags: Sequence[str], directory: Path, *, patience_s: float = 300.0) -> Iterator[str]:
    """``optimus serve`` of a model on a free port of this machine; yields its URL once /health answers.

    Its output goes to ``server.log`` in ``directory``, and what it measures of the model to ``state``.

    Raises:
        SettingsError: it ended, or did not answer in ``patience_s``; with the last line it wrote.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port, log = _free_port(), directory / "server.log"
    state = f"XDG_STATE_HOME={directory / 'state'}"
    command = ["env", state, *OPTIMUS, "serve", str(model), "--hostname", "127.0.0.1", "--port", str(port), *flags]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(process, url, log, patience_s)
            yield url
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    with httpx.Client(trust_env=False, timeout=2.0) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise SettingsError(f"optimus serve ended with exit code {process.returncode}: {_last(log)}")
            try:
                if client.get(f"{url}/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
    raise SettingsError(f"optimus serve did not answer in {patience_s:g} s: {_last(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else f"nothing in {log}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
