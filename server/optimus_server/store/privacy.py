"""What the log may keep of what people write, and the key that hides the rest.

The key lies in a file of its own, so that a log can be copied, opened in a browser or published without it: who has
both can test whether a guessed prompt is in the log.
"""

import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from optimus_server.errors import SettingsError
from optimus_server.settings import LOG_TEXT
from optimus_server.store.session import file_of


@dataclass(frozen=True, slots=True)
class Kept:
    """What remains of one request's text."""

    hmac: bytes | None
    prompt: str | None = None
    output: str | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Privacy:
    """What ``--log-text`` allows.

    Attributes:
        hashes: keep a keyed hash of each prompt.
        characters: keep so many of prompt and of output; None for none.
    """

    key: bytes
    hashes: bool = True
    characters: int | None = None

    @classmethod
    def of(cls, log_text: str, key: bytes) -> "Privacy":
        """From a value of ``--log-text``."""
        match = LOG_TEXT.fullmatch(log_text)
        assert match
        return cls(key, log_text != "none", int(match[1]) if match[1] else 2**31 if log_text == "full" else None)

    def keep(self, prompt: str, output: str | None) -> Kept:
        digest = hmac.digest(self.key, b"prompt\0" + _encoded(prompt), "sha256") if self.hashes else None
        if self.characters is None:
            return Kept(digest)
        n, answer = self.characters, output or ""
        truncated = len(prompt) > n or len(answer) > n
        return Kept(digest, storable(prompt[:n]), storable(answer[:n]), truncated)

    def client(self, secret: str) -> str:
        """The name under which the holder of an API key appears."""
        return hmac.digest(self.key, b"client\0" + _encoded(secret), "sha256")[:8].hex()


def storable(text: str) -> str:
    """A text that any database takes: without NUL, which PostgreSQL refuses, and without half characters."""
    return _encoded(text).decode(errors="replace").replace("\0", "\ufffd")


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def load_key(url: URL, state: Path) -> bytes:
    """A log's key: from the file beside an SQLite log, or from ``state`` for PostgreSQL; made when there is none.

    Raises:
        SettingsError: the file cannot be read or written.
    """
    file = file_of(url)
    path = file.with_name(file.name + ".key") if file else state / "postgresql.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Whole before it has its name: of servers that start together one wins, and all read the same key.
            made = path.with_name(f"{path.name}.{os.getpid()}")
            made.touch(mode=0o600)
            made.write_text(secrets.token_hex(32))
            with suppress(FileExistsError):
                os.link(made, path)
            made.unlink()
        return bytes.fromhex(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"the request log's key {path}: {error}", param="log_db") from error
