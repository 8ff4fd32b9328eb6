"""The pictures in README.md, of a real server with the demo model: ``python -m tests.screenshots``."""

import argparse
import contextlib
import io
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import CHROMIUM, FLAGS

OUT = Path(__file__).parent.parent / ".images"
WIDE, NARROW = {"width": 1280, "height": 940}, {"width": 390, "height": 844}
QUESTION = "How does diffusion decoding work?"
LOAD = "16"


def main() -> int:
    parser = argparse.ArgumentParser(description="Take the pictures in README.md.")
    parser.add_argument("--out", type=Path, default=OUT, help="directory (default: .images)")
    out = parser.parse_args().out
    out.mkdir(exist_ok=True)
    with serving() as url, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        take(chromium, out / "playground.png", url + "/playground/", WIDE, loaded)
        take(chromium, out / "playground-dark.png", url + "/playground/", WIDE, midway, dark=True)
        take(chromium, out / "playground-narrow.png", url + "/playground/", NARROW, midway)
        with busy(chromium, url):
            for name, size, dark in (("", WIDE, False), ("-dark", WIDE, True), ("-narrow", NARROW, False)):
                take(chromium, out / f"admin{name}.png", url + "/admin", size, watched, dark=dark)
        chromium.close()
    return 0


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The URL of ``optimus serve`` with an empty request log."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "-m",
            "optimus_server.cli",
            "serve",
            "--port",
            "0",
            "--playground-load",
            "--log-db",
            f"{directory}/log.db",
        ]
        server = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr
            for line in server.stderr:
                if ready := re.search(r"Ready in .*(http://\S+)", line):
                    # A server whose log nobody reads stops when the pipe is full.
                    threading.Thread(target=server.stderr.read).start()
                    yield ready[1]
                    break
            else:
                raise RuntimeError("the server did not start")
        finally:
            server.terminate()
            server.wait()


def take(
    chromium: Browser, path: Path, url: str, size: dict[str, int], act: Callable[[Page], None], dark: bool = False
) -> None:
    """One picture of what a window shows after ``act``, in 128 colors."""
    page = chromium.new_page(
        viewport={"width": size["width"], "height": size["height"]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        device_scale_factor=1,
    )
    page.goto(url)
    act(page)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    page.close()
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def loaded(page: Page) -> None:
    """The same question alone, pinned, and beside other requests."""
    generate(page)
    page.locator("#run .pin").click()
    page.locator("#load").get_by_text(LOAD, exact=True).click()
    page.wait_for_function(f"document.querySelector('#run .running').textContent >= {LOAD}", timeout=60_000)
    page.wait_for_timeout(8000)  # The controller learns the load, and the dial has something to show.
    generate(page)


def midway(page: Page) -> None:
    """A run in the middle of its steps, masks and all."""
    generate(page)
    slider = page.locator("#run input.step")
    half = int(slider.get_attribute("max") or 0) // 2
    slider.focus()
    slider.press("Home")
    for _ in range(half):
        slider.press("ArrowRight")
    if page.viewport_size == NARROW:
        page.locator("#run .legend").scroll_into_view_if_needed()
        page.locator("#run .legend").evaluate("legend => legend.scrollIntoView()")


def watched(page: Page) -> None:
    page.wait_for_timeout(4000)


@contextlib.contextmanager
def busy(chromium: Browser, url: str) -> Iterator[None]:
    """Some load for as long as the block runs, which began a little while ago."""
    page = chromium.new_page()
    page.goto(url + "/playground/")
    generate(page)
    for count in ("4", LOAD, "4", LOAD):
        page.locator("#load").get_by_text(count, exact=True).click()
        page.wait_for_timeout(6000)
    yield
    page.close()


def generate(page: Page) -> None:
    page.wait_for_selector("#run .cells")
    page.locator("#prompt textarea").fill(QUESTION)
    page.locator("#generate").click()
    page.wait_for_selector(".optimus[data-run=running]")
    page.wait_for_selector(".optimus[data-run=done]", timeout=60_000)


if __name__ == "__main__":
    sys.exit(main())
