"""Whether the canvas keeps up: ``python -m tests.playground.prove``.

An engine that plays a script does 200 steps a second until 1,024 places are filled, and Chromium says how long its main
thread worked. Playback must take no more than 10 % longer than the steps did, and the main thread must work less than
60 % of the time: CPU time, since other programs may hold the cores, and at 60 frames a second, however many there were.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import CDPSession, sync_playwright

from optimus_server.text.tokenizer import Tokenizer
from tests import web
from tests.conftest import CHROMIUM, FLAGS

PLACES, STEP_S = 1024, 0.005
LATE, BUSY, FRAMES = 1.10, 0.60, 60
FEW = 40  # frames/s; with fewer, each holds the work of many, and tells nothing of a machine that is not as busy

# Notes when the canvas first shows a step, and when it shows all places filled; ms of the page's clock.
WATCH = """(places) => {
  const cells = document.querySelector("#run .cells");
  window.shown = {frames: 0};
  const look = () => {
    window.shown.frames++;
    const count = cells.querySelectorAll(".sent").length;
    if (count) window.shown.first ??= [performance.now(), count];
    if (count >= places) window.shown.last ??= [performance.now(), count];
    if (!window.shown.last) requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}"""


class Timed(web.ScriptedEngine):
    """Knows when each of its steps ended."""

    def __init__(self, script: web.Steps) -> None:
        super().__init__(lambda request: list(script), step_s=STEP_S)
        self.ended_at: list[float] = []

    def step(self, meanwhile: Callable[[], None]) -> list[Any]:
        events = super().step(meanwhile)
        self.ended_at.append(time.monotonic())
        return events


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--per-step", type=int, default=1, help="tokens a step keeps (default: %(default)s)")
    args = parser.parse_args()

    tokenizer = Tokenizer(web.small_tokenizer())
    ids = tokenizer.encode("the lazy dog " * PLACES)[:PLACES]
    script = [tuple(ids[i : i + args.per_step]) for i in range(0, PLACES, args.per_step)]
    engine = Timed(script)
    rule = {"max_total_tokens": 4096, "block_size": 32}
    app = web.application(engine, tokenizer, rule=rule, no_playground=False)
    with web.listening(app, engine) as live, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        # No replay by itself: only what is live counts.
        page = chromium.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        page.goto(live.url + "/playground/")
        page.wait_for_selector("#run .cells")
        page.locator("#more button").first.click()
        page.locator("#length input[type=number]").fill("2000")
        page.evaluate(WATCH, PLACES)
        inspector = page.context.new_cdp_session(page)
        inspector.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = metrics(inspector)
        page.locator("#generate").click()
        page.wait_for_function("window.shown.last", timeout=60_000)
        after = metrics(inspector)
        shown = page.evaluate("window.shown")
        page.wait_for_selector(".optimus[data-run=done]")
        chromium.close()
    # From the first steps that were seen to the last one.
    (began, seen), (ended, _) = shown["first"], shown["last"]
    first = seen // args.per_step - 1
    took, played = engine.ended_at[-1] - engine.ended_at[first], (ended - began) / 1e3
    wall = after["Timestamp"] - before["Timestamp"]
    rate = shown["frames"] / wall
    busy = {name: after[name] - before[name] for name in ("TaskDuration", "ScriptDuration", "LayoutDuration")}
    busy["RecalcStyleDuration"] = after["RecalcStyleDuration"] - before["RecalcStyleDuration"]
    late, cpu = played / took, busy["TaskDuration"]
    share = max(cpu / wall, cpu / shown["frames"] * FRAMES)
    print(f"{PLACES} places, {len(script)} steps, {(len(script) - first - 1) / took:.0f} steps/s")
    print(f"playback {played:.2f} s, real time {took:.2f} s: {late:.3f} times as long (limit {LATE})")
    parts = ", ".join(f"{name.removesuffix('Duration').lower()} {value:.2f} s" for name, value in busy.items())
    print(f"main thread {share:.0%} at {FRAMES} frames/s (limit {BUSY:.0%}), {cpu / wall:.0%} at {rate:.0f}: {parts}")
    if rate < FEW:
        print(f"no verdict: other programs left the page less than {FEW} frames/s")
        return 2
    return int(late > LATE or share > BUSY)


def metrics(inspector: CDPSession) -> dict[str, float]:
    """Chromium's own, in seconds since the page began."""
    return {metric["name"]: metric["value"] for metric in inspector.send("Performance.getMetrics")["metrics"]}


if __name__ == "__main__":
    sys.exit(main())
