"""From settings to a recorder, in two parts: what can be refused comes before the model is loaded."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from optimus_server.settings import Settings, state_directory
from optimus_server.store.migrate import migrate
from optimus_server.store.privacy import Privacy, load_key
from optimus_server.store.recorder import Recorder
from optimus_server.store.records import InstanceRecord
from optimus_server.store.retention import Retention
from optimus_server.store.session import log_url


def prepare(settings: Settings) -> Callable[[InstanceRecord], Recorder] | None:
    """Bring the log up to date; returns what starts its recorder, or None if there is to be no log.

    Raises:
        SettingsError: the log cannot be opened, or is not one this code may write.
    """
    if settings.log_place is None:
        return None
    url = log_url(settings.log_place)
    migrate(url, settings.db_migrate)
    privacy = Privacy.of(settings.log_text, load_key(url, state_directory()))
    limits = Retention(settings.log_retention_days, settings.log_max_mb)
    return partial(Recorder, url, privacy=privacy, limits=limits)


def checkout() -> str | None:
    """The commit this code runs from, if it is a checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
