"""The page in headless Chromium: masks resolve, Stop stops, text stays text."""

import re

import pytest

from tests.web import spoken, wait_for


DONE = ".optimus[data-run=done]"
ROOM = {"max_total_tokens": 2048}  # For what the page asks by default.
MARKUP = "<b>x</b><script>alert(1)</script>"

# Notes for each frame how many places are masked, before the run begins.
WATCH = """() => {
  window.masks = [];
  const cells = document.querySelector("#run .cells");
  const look = () => window.masks.push(cells.querySelectorAll(".masked").length);
  new MutationObserver(look).observe(cells, {childList: true, subtree: true, attributes: true});
}"""


def ask(page, text):
    page.locator("#prompt textarea").fill(text)
    page.locator("#generate").click()


def test_masks_resolve_and_the_run_can_be_scrubbed(demo, visit):
    page = visit(demo.url)
    page.wait_for_function("document.querySelector('#run .state').textContent === 'online'")
    assert "optimus-demo" in page.inner_text("#run .model")
    assert "running" in page.inner_text("#run .running")
    page.evaluate(WATCH)
    ask(page, "How does diffusion decoding work?")
    page.wait_for_selector(DONE)
    assert "mask" in page.inner_text("#run .text")
    masks = page.evaluate("window.masks")
    assert max(masks) > 5
    assert page.locator("#run .cells .masked:not(.behind)").count() == 0

    # What is on show is what was sent: the boxes before the caret spell the text.
    boxes = page.locator("#run .cells .sent:not(.behind)").all_text_contents()
    spelt = "".join(boxes).replace("↵", "\n").removesuffix("<|end|>")
    assert spelt == page.text_content("#run .text")
    for name in ("ttft", "speed", "rate", "steps", "wasted"):
        assert re.search(r"\d", page.inner_text(f"[data-number={name}]")), name

    steps = int(page.inner_text("[data-number=steps]"))
    slider = page.locator("#run .step")
    assert slider.get_attribute("max") == str(steps)
    slider.focus()
    slider.press("Home")
    slider.press("ArrowRight")
    assert page.inner_text("#run .at") == f"step 1 of {steps}"
    assert page.locator("#run .cells .masked").count() > 0
    assert page.inner_text("#run .why").startswith("Step 1: tried ")


def test_a_fixed_chunk_is_what_the_steps_show(demo, visit):
    page = visit(demo.url)
    page.locator("#chunk").get_by_text("4", exact=True).click()
    ask(page, "What is a chunk?")
    page.wait_for_selector(DONE)
    assert "(chunk 4)" in page.inner_text("#run .why")
    assert "manual" in page.inner_text("#run .why")


def test_stop_frees_the_request_and_keeps_the_page_usable(scripted, tokenizer, visit):
    live = scripted("word " * 50, step_s=0.05, no_playground=False, rule=ROOM)
    page = visit(live.url)
    ask(page, "Tell me everything.")
    page.wait_for_selector("#run .cells .sent")
    page.locator("#stop").click()
    page.wait_for_selector(".optimus[data-run=stopped]")
    wait_for(lambda: live.service.permits_taken == 0)
    assert live.engine.ended == [] or live.engine.ended[0][1] != "eos_token"
    assert page.inner_text("#run .problem") == ""


def test_html_stays_text(scripted, tokenizer, visit):
    page = visit(scripted(script=lambda request: spoken(tokenizer, MARKUP), no_playground=False, rule=ROOM).url)
    page.on("dialog", lambda dialog: pytest.fail("markup ran"))
    ask(page, MARKUP)
    page.wait_for_selector(DONE)
    assert page.text_content("#run .text") == MARKUP
    assert page.locator("#run .text *, #run .cells span *").count() == 0


def test_an_error_is_said(scripted, visit):
    live = scripted("hello", no_playground=False, rule=ROOM)
    page = visit(live.url)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, body='data: {"error": "<b>no"}\n\n'))
    ask(page, "x")
    page.wait_for_selector(DONE)
    assert page.inner_text("#run .problem") == "<b>no"


def test_a_narrow_page_does_not_scroll_sideways(scripted, visit):
    page = visit(scripted("hello", no_playground=False, rule=ROOM).url, viewport={"width": 390, "height": 800})
    ask(page, "x")
    page.wait_for_selector(DONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
