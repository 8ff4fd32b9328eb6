"""Pictures of the admin pages, of the demo model under load: ``python -m tests.admin.pictures DIRECTORY``.

The load comes in waves, so that the pictures show the controller answering it.
"""

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import CHROMIUM, FLAGS
from tests.web import Live, listening

PROMPTS = (
    "How does diffusion decoding work?", "Write a short story about a fox.", "What is a chunk?",
    "Write a Python function that adds two numbers.", "Sort these numbers: 42, 7, 19, 3.",
)  # fmt: skip
WAVES = (2, 10, 3, 16, 6)
"""Requests at once, one wave after the other."""
ACTS = (("knobs", {"chunk": "8"}), ("knobs", {"chunk": "auto"}), ("pause", {"on": "1"}), ("pause", {"on": "0"}))
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SHOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "admin-wide": ("/admin", {"viewport": WIDE}),
    "admin-dark": ("/admin", {"viewport": WIDE, "color_scheme": "dark"}),
    "admin-narrow": ("/admin", {"viewport": NARROW, "device_scale_factor": 2}),
    "admin-bare": ("/admin", {"viewport": WIDE, "java_script_enabled": False}),
    "requests-wide": ("/admin/requests", {"viewport": WIDE}),
    "requests-narrow": ("/admin/requests", {"viewport": NARROW, "device_scale_factor": 2}),
    "request-wide": ("/admin/requests/pictured", {"viewport": WIDE}),
    "request-dark": ("/admin/requests/pictured", {"viewport": WIDE, "color_scheme": "dark"}),
    "request-narrow": ("/admin/requests/pictured", {"viewport": NARROW, "device_scale_factor": 2}),
    "audit-wide": ("/admin/audit", {"viewport": WIDE}),
}


@contextlib.contextmanager
def served(directory: Path) -> Iterator[Live]:
    """The demo model with a log that keeps text."""
    from optimus_server.app import create_app, instance
    from optimus_server.backend import build_backend
    from optimus_server.settings import Settings
    from optimus_server.store.start import prepare

    settings = Settings(max_batch_size=16, no_playground=True, log_db=str(directory / "log.db"), log_text="full")
    open_log = prepare(settings)
    assert open_log
    backend = build_backend(settings)
    with (
        contextlib.closing(open_log(instance(settings, backend))) as recorder,
        listening(create_app(settings, backend, recorder), backend.engine) as live,
    ):
        yield live


@contextlib.contextmanager
def waves(live: Live, wave_s: float) -> Iterator[None]:
    """Load while the block runs, which begins in the last wave."""
    over, wanted = threading.Event(), [0]

    def ask(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=live.url, timeout=60) as client:
            while not over.is_set():
                if number < wanted[0]:
                    content = rng.choice(PROMPTS)
                    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 200}
                    client.post("/v1/chat/completions", json=body)
                time.sleep(rng.uniform(0.05, 0.3))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(max(WAVES))]
    for thread in threads:
        thread.start()
    try:
        for size in WAVES:
            wanted[0] = size
            time.sleep(wave_s)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def take(live: Live, directory: Path) -> None:
    from playwright.sync_api import sync_playwright

    headers, body = {"x-request-id": "pictured"}, {"messages": [{"role": "user", "content": PROMPTS[0]}]}
    live.post("/v1/chat/completions", body, headers=headers)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, (path, options) in SHOTS.items():
            context = browser.new_context(**options)
            page = context.new_page()
            page.goto(live.url + path)
            if options.get("java_script_enabled", True):
                page.wait_for_timeout(2500)
                if page.locator("#timeline").count():
                    page.locator("#tail tr").nth(3).click()
                if page.locator("#at").count():
                    page.locator("#at").focus()
                    page.keyboard.press("Home")
                    for _ in range(5):
                        page.keyboard.press("ArrowRight")
                page.wait_for_timeout(300)
            page.screenshot(path=directory / f"{name}.png", full_page=True)
            context.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.admin.pictures")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--wave-s", type=float, default=20.0, help="seconds each wave of load lasts")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, served(Path(place)) as live, waves(live, args.wave_s):
        for path, fields in ACTS:
            act(live, path, fields)
            time.sleep(1.0)
        take(live, args.directory)


def act(live: Live, path: str, fields: dict[str, str]) -> None:
    """What an operator would have done, so that the trail is not empty."""
    with httpx.Client(base_url=live.url) as client:
        page = client.get("/admin").text
        proof = page.split('name="proof" value="')[1].split('"')[0]
        assert client.post(f"/admin/{path}", data={"proof": proof} | fields).status_code == 303


if __name__ == "__main__":
    main()
