"""Walk through the Dockerfile without Docker: each step in a clean Debian root, then the health check, a chat, SIGTERM.

    sudo python3 .docker/prove.py --build-arg TORCH=cpu

needs debootstrap and ``unshare``, and nothing of Optimus. A stage is a copy of one root made by debootstrap; a step
runs in it by ``chroot``, with the environment, directory and user that the Dockerfile has set by then. The context is
the last commit. The server runs in a network of its own, in which, as in a container, port 80 needs no root. What
Docker itself does (layers, cache, the image's metadata) is not tried.
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HEALTHY_WITHIN_S = 300
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    """What the Dockerfile has made of one stage so far."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    args: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def command(self, *command: str, **env: str) -> list[str]:
        """A command line that runs another one in this stage, as a container would."""
        variables = {**self.args, **self.env, "HOME": "/root" if self.user == "root" else f"/home/{self.user}", **env}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        inside = f"cd {shlex.quote(self.directory)} && exec {shlex.join(command)}"
        return [
            "chroot",
            f"--userspec={self.user}",
            str(self.root),
            "/usr/bin/env",
            "-i",
            *pairs,
            "/bin/sh",
            "-c",
            inside,
        ]


def instructions(text: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions: continued lines joined, comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


class Build:
    """Runs the instructions of a Dockerfile, stage by stage.

    Args:
        base: a root to begin each stage with.
        context: what COPY copies from.
        given: build arguments.
        binds: directories of this machine that every stage sees.
        env: further variables of every RUN.
    """

    def __init__(
        self, work: Path, base: Path, context: Path, given: dict[str, str], binds: list[Path], env: dict[str, str]
    ) -> None:
        self._work, self._base, self._context = work, base, context
        self._given, self._binds, self._variables = given, binds, env
        self._mounted: list[Path] = []
        self._named: dict[str, Stage] = {}
        self.stage = Stage(base)

    def run(self, text: str) -> Stage:
        for number, (name, rest) in enumerate(instructions(text), start=1):
            print(f"step {number}: {name} {rest[:100]}", flush=True)
            getattr(self, f"_{name.lower()}")(rest)
        return self.stage

    def close(self) -> None:
        for place in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", place], check=False)

    def _from(self, rest: str) -> None:
        _, _, name = rest.partition(" AS ")
        root = self._work / f"stage-{len(self._mounted)}"
        subprocess.run(["cp", "-ax", self._base, root], check=True)
        for source, kind in [
            ("proc", ["-t", "proc"]),
            ("/dev", ["--bind"]),
            *((str(b), ["--rbind"]) for b in self._binds),
        ]:
            place = root / source.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", *kind, source, place], check=True)
            self._mounted.append(place)
        # Docker does so, too: names are looked up as outside.
        shutil.copy("/etc/resolv.conf", root / "etc")
        self.stage = Stage(root)
        if name:
            self._named[name] = self.stage

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        self.stage.args[name] = self._given.get(name, default)

    def _env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.stage.env[name] = value.replace("$PATH", self.stage.env["PATH"])

    def _run(self, rest: str) -> None:
        subprocess.run(self.stage.command("/bin/sh", "-c", rest, **self._variables), check=True)

    def _workdir(self, rest: str) -> None:
        self.stage.directory = rest
        (self.stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        root = self._context
        if sources[0].startswith("--from="):
            root = self._named[sources.pop(0).removeprefix("--from=")].root
        place = self.stage.root / os.path.join(self.stage.directory, target).lstrip("/")
        for source in sources:
            found = root / source.lstrip("/")
            # As Docker does: of a directory its contents, of a file itself.
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", f"{found}/." if found.is_dir() else found, place], check=True)

    def _user(self, rest: str) -> None:
        self.stage.user = rest

    def _healthcheck(self, rest: str) -> None:
        self.stage.health = json.loads(rest.partition(" CMD ")[2])

    def _entrypoint(self, rest: str) -> None:
        self.stage.entrypoint = json.loads(rest)

    def _volume(self, rest: str) -> None:
        assert (self.stage.root / rest.lstrip("/")).is_dir()

    def _expose(self, rest: str) -> None:
        assert rest == self.stage.env["PORT"]

    def _stopsignal(self, rest: str) -> None:
        assert rest == "SIGTERM"


def serve(stage: Stage) -> None:
    """Start the entry point, wait until it is healthy, ask it something, and stop it."""
    _loopback_up()
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    # Docker sets HOSTNAME to the container's id.
    process = subprocess.Popen(stage.command(*stage.entrypoint, HOSTNAME="3f2a9c1b77de"))
    try:
        began = time.monotonic()
        while subprocess.run(stage.command(*stage.health), capture_output=True, check=False).returncode:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < began + HEALTHY_WITHIN_S, "not healthy in time"
            time.sleep(1)
        print(f"healthy after {time.monotonic() - began:.0f} s", flush=True)
        body = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{stage.env['PORT']}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            print("answer:", json.load(response)["choices"][0]["message"]["content"], flush=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, f"ended with {process.returncode}"
    finally:
        process.kill()
    log = stage.root / stage.env["OPTIMUS_LOG_DB"].lstrip("/")
    assert log.stat().st_uid == 1000
    print("ended with 0 on SIGTERM; the request log is", stage.env["OPTIMUS_LOG_DB"])


def _loopback_up() -> None:
    """A new network has a loopback that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sH14x", b"lo", 1)
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS, IFF_UP


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    made = Path(tempfile.mkdtemp())
    try:
        yield made
    finally:
        # Not before everything is unmounted.
        if not any(str(made) in line for line in Path("/proc/mounts").read_text().splitlines()):
            shutil.rmtree(made)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--bind", action="append", default=[], type=Path, help="a directory the steps need, such as a package index"
    )
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="of every RUN, say PIP_CERT")
    parser.add_argument("--work", type=Path, help="where the roots are made, and kept; default: a temporary directory")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        fields = json.loads(args.serve)
        return serve(Stage(**fields | {"root": Path(fields["root"])}))
    with _directory(args.work) as work:
        base, context = work / "base", work / "context"
        if not base.exists():
            subprocess.run(
                ["debootstrap", "--variant=minbase", "bookworm", base], check=True, stdout=subprocess.DEVNULL
            )
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        archive = subprocess.run(
            ["git", "-C", REPOSITORY, "archive", "HEAD"], stdout=subprocess.PIPE, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", context], input=archive, check=True)
        given, env = (dict(pair.split("=", 1) for pair in pairs) for pairs in (args.build_arg, args.env))
        build = Build(work, base, context, given, args.bind, env)
        try:
            stage = build.run((context / "Dockerfile").read_text())
            # Build arguments end with the build.
            told = json.dumps({**vars(stage), "root": str(stage.root), "args": {}})
            subprocess.run(["unshare", "--net", sys.executable, __file__, "--serve", told], check=True)
        finally:
            build.close()


if __name__ == "__main__":
    main()
