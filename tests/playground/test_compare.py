"""Two runs side by side, and what added load does to the chunk, in headless Chromium."""

import re

from optimus_server.api import crowd
from tests.playground.hands import ROOM, again, ask, choose, finish
from tests.web import wait_for

# Heights of the pale and solid bars of the strip, in pixels, one for each column that has one: what an eye sees.
BARS = """(strip) => {
  const pen = strip.getContext("2d"), {width, height} = strip, dots = pen.getImageData(0, 0, width, height).data;
  const page = getComputedStyle(document.querySelector(".optimus"));
  const shade = (name) => {
    pen.save(); pen.fillStyle = page.getPropertyValue(name); const hex = pen.fillStyle; pen.restore();
    return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  };
  const colors = ["--tried", "--kept"].map(shade), heights = [];
  for (let x = 0; x < width; x++) {
    let high = 0;
    for (let y = 20; y < height; y++) {
      const at = 4 * (y * width + x);
      const near = colors.some((color) => color.every((part, i) => Math.abs(part - dots[at + i]) < 3));
      high += near && dots[at + 3] > 250;
    }
    if (high) heights.push(high);
  }
  return heights;
}"""


def test_a_fixed_chunk_and_auto_are_compared_side_by_side(demo, visit):
    page = visit(demo.url)
    page.locator("#prompt textarea").fill("How does diffusion decoding work?")
    page.locator("#compare").click()
    page.wait_for_selector("#run .verdict:not([hidden])", timeout=60_000)
    titles = page.locator("#run .pane .title").all_inner_texts()
    assert titles[0].startswith("Pinned: chunk 1, ")
    assert titles[1].startswith("Chunk auto, ")
    left, right = (page.locator("#run .panes > article").nth(i).bounding_box() for i in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) < 2
    left, right = (page.locator("#run .strip").nth(i).bounding_box() for i in (0, 1))
    assert abs(left["y"] - right["y"]) < 2
    fixed, auto = (int(text) for text in page.locator("[data-number=steps]").all_inner_texts())
    assert fixed > 2 * auto
    assert f"in {fixed} steps" in page.inner_text("#run .verdict")
    # Both are played together, and stand together.
    page.locator("#run .pane:last-child select").select_option("16")
    page.locator("#run .pane:last-child .play").click()
    page.wait_for_function(
        "[...document.querySelectorAll('#run input.step')].every((one) => one.value > 0 && +one.value < +one.max)"
    )
    page.locator("#run .pane:first-child .play").click()  # Pause
    stood = page.locator("#run .at").all_inner_texts()
    page.wait_for_timeout(200)
    assert page.locator("#run .at").all_inner_texts() == stood
    page.get_by_text("Unpin").click()
    assert page.locator("#run article").count() == 1
    assert page.locator("#run .verdict").is_hidden()


def test_added_load_shrinks_the_bars_and_leaves_with_the_page(demo, visit):
    page = visit(demo.url)
    ask(page, "How does diffusion decoding work?")
    finish(page)
    alone = page.locator("#run .strip").evaluate(BARS)
    choose(page, "#load", "16")
    page.wait_for_function("document.querySelector('#run .running').textContent >= 16", timeout=30_000)
    page.wait_for_timeout(2000)  # The controller takes a while to learn the new load.
    again(page)
    loaded = page.locator("#run .strip").evaluate(BARS)
    assert len(alone) > 100 < len(loaded)
    assert sum(loaded) / len(loaded) < 0.5 * sum(alone) / len(alone)
    assert "Added load: " in page.inner_text("#run .crowd")
    assert re.search(r"beside up to 1\d", page.inner_text("#run .title"))
    page.goto("about:blank")
    wait_for(lambda: demo.service.permits_taken == 0, 10)


def test_load_can_be_taken_back(scripted, visit):
    live = scripted("word " * 200, step_s=0.01, no_playground=False, playground_load=True, rule=ROOM)
    page = visit(live.url)
    choose(page, "#load", "4")
    wait_for(lambda: len(live.engine.live) == 4)
    choose(page, "#load", "0")
    wait_for(lambda: live.service.permits_taken == 0)
    assert page.inner_text("#run .crowd") == ""


def test_load_whose_time_is_over_says_so(scripted, visit, monkeypatch):
    monkeypatch.setattr(crowd, "LASTS_S", 0.5)
    live = scripted("word " * 200, step_s=0.01, no_playground=False, playground_load=True, rule=ROOM)
    page = visit(live.url)
    choose(page, "#load", "4")
    page.wait_for_function("document.querySelector('#run .crowd').textContent.includes('has ended')")
    assert page.locator("#load input[value='0']").is_checked()
    assert live.service.permits_taken == 0
