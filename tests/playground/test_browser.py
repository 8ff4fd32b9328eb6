"""The page in headless Chromium: masks resolve, a chat remembers, Stop stops, text stays text."""

import contextlib
import io
import json
import re
import subprocess

import pytest

from tests.playground.hands import ROOM, again, ask, choose, finish, prompt_of, spelled
from tests.web import spoken, wait_for

MARKUP = "<b>x</b><script>alert(1)</script>"

# Notes for each change of the canvas how many places are masked, before the run begins.
WATCH = """() => {
  window.masks = [];
  const cells = document.querySelector("#run .cells");
  const look = () => window.masks.push(cells.querySelectorAll(".masked").length);
  new MutationObserver(look).observe(cells, {childList: true, subtree: true, attributes: true});
}"""


def test_masks_resolve_and_the_run_can_be_scrubbed(demo, visit):
    page = visit(demo.url)
    page.wait_for_function("document.querySelector('#run .state').textContent === 'online'")
    assert "optimus-demo" in page.inner_text("#run .model")
    page.evaluate(WATCH)
    ask(page, "How does diffusion decoding work?")
    finish(page)
    assert "mask" in page.inner_text("#run .text")
    masks = page.evaluate("window.masks")
    assert max(masks) > 20
    assert masks[-1] < max(masks) / 2
    assert page.locator("#run .cells .masked:not(.behind)").count() == 0
    assert page.locator("#run .block").count() >= 3
    assert page.get_attribute("#run .block:nth-child(2)", "data-block") == "1"

    # What is on show is what was sent: the boxes before the caret spell the text.
    assert spelled(page) == page.text_content("#run .text") == page.text_content("#run .said")
    for name in ("ttft", "commit", "total", "speed", "rate", "gain", "steps", "wasted"):
        assert re.search(r"\d", page.inner_text(f"[data-number={name}]")), name

    steps = int(page.inner_text("[data-number=steps]"))
    slider = page.locator("#run input.step")
    assert slider.get_attribute("max") == str(steps)
    slider.focus()
    slider.press("Home")
    assert page.locator("#run .cells .sent").count() == 0
    slider.press("ArrowRight")
    assert page.inner_text("#run .at") == f"step 1 of {steps}"
    # The chunk of the step is to be seen: what it tried is either kept or still masked.
    assert page.locator("#run .cells .tried").count() > 0
    assert page.locator("#run .cells .tried:not(.masked):not(.now)").count() == 0
    assert page.locator("#run .cells .caret").count() == 1
    assert page.inner_text("#run .why").startswith("Step 1: chunk ")

    # The strip goes the same way, by keyboard, and says why.
    page.locator("#run .strip").focus()
    page.keyboard.press("End")
    assert page.inner_text("#run .at") == f"step {steps} of {steps}"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#run .at") == f"step {steps - 1} of {steps}"
    assert page.get_attribute("#run .strip", "aria-valuetext").startswith(f"Step {steps - 1}: chunk ")


def test_what_is_held_is_not_sent(scripted, tokenizer, visit):
    """Places kept behind a gap look different from those before it, until the gap closes."""
    page = visit(scripted("hello", no_playground=False, rule=ROOM).url)
    steps = [([[2, 9, "c", 0.5]], 0), ([[0, 7, "a", 0.99], [1, 8, "b", 0.99]], 3)]
    told = [
        {"diffusion": {"type": "step", "step": i, "t_ms": i, "step_ms": 1, "chunk": 4, "chunk_reason": "hold",
                       "batch": 1, "masked": 4 - i, "commit": commit, "frontier": frontier}}
        for i, (commit, frontier) in enumerate(steps, start=1)
    ]  # fmt: skip
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in told)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, body=body))
    ask(page, "x")
    finish(page)
    page.locator("#run input.step").press("ArrowLeft")
    assert page.locator("#run .cells .held").all_text_contents() == ["c"]
    assert page.locator("#run .cells .sent").count() == 0
    assert page.locator("#run .cells .held").evaluate("cell => cell.style.getPropertyValue('--sure')") == "0.5"
    page.locator("#run input.step").press("ArrowRight")
    assert page.locator("#run .cells .sent").all_text_contents() == ["a", "b", "c"]
    assert page.locator("#run .cells .held").count() == 0


def test_a_fixed_chunk_is_what_the_steps_show(demo, visit):
    page = visit(demo.url)
    choose(page, "#chunk", "4")
    ask(page, "What is a chunk?")
    finish(page)
    assert "chunk 4," in page.inner_text("#run .why")
    assert "manual" in page.inner_text("#run .why")


def test_a_chat_remembers_and_can_be_forgotten(scripted, tokenizer, visit):
    script = lambda request: spoken(tokenizer, MARKUP)  # noqa: E731
    live = scripted(script=script, step_s=0.02, no_playground=False, rule=ROOM)
    page = visit(live.url)
    choose(page, "#mode", "chat")
    ask(page, "first")
    finish(page)
    assert page.locator("#prompt textarea").input_value() == ""
    page.locator("#prompt textarea").fill("second")
    again(page)
    seen = tokenizer.decode(prompt_of(live))
    assert seen == f"first{MARKUP}second"
    turns = ["first", MARKUP, "second", MARKUP]
    assert page.locator("#talk .turns p").all_text_contents() == turns
    assert page.locator("#talk .turns p *").count() == 0
    # A comparison asks in the same conversation, and leaves it as it was.
    page.locator("#prompt textarea").fill("third")
    page.locator("#compare").click()
    page.wait_for_selector("#run .verdict:not([hidden])")
    assert tokenizer.decode(prompt_of(live)) == "".join([*turns, "third"])
    assert page.locator("#talk .turns p").all_text_contents() == turns
    page.get_by_text("New chat").click()
    page.locator("#prompt textarea").fill("third")
    again(page)
    seen = tokenizer.decode(prompt_of(live))
    assert "first" not in seen


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
    assert page.locator("#run .pin").is_enabled()


def test_a_seed_makes_a_run_repeatable(scripted, tokenizer, visit):
    live = scripted("hello", no_playground=False, rule=ROOM)
    page = visit(live.url, expected="422")
    page.locator("#more button").first.click()
    page.locator("#seed input, #seed textarea").fill("4711")
    ask(page, "x")
    finish(page)
    assert live.engine.seen[-1].params.seed == 4711
    page.locator("#seed input, #seed textarea").fill("no number")
    page.locator("#generate").click()
    page.wait_for_function("document.querySelector('#run .problem').textContent.includes('seed')")


def test_html_stays_text(scripted, tokenizer, visit):
    page = visit(scripted(script=lambda request: spoken(tokenizer, MARKUP), no_playground=False, rule=ROOM).url)
    page.on("dialog", lambda dialog: pytest.fail("markup ran"))
    ask(page, MARKUP)
    finish(page)
    for drawer in page.locator("#run summary").all():
        drawer.click()
    assert page.text_content("#run .text") == MARKUP
    assert page.locator("#run :is(.text, .cells span, .said, .drawer pre) *").count() == 0


def test_an_error_is_said(scripted, visit):
    live = scripted("hello", no_playground=False, rule=ROOM)
    page = visit(live.url)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, body='data: {"error": "<b>no"}\n\n'))
    ask(page, "x")
    finish(page)
    assert page.inner_text("#run .problem") == "<b>no"


def test_what_the_drawers_show_works(scripted, visit, monkeypatch):
    """The commands are run as they stand, for a prompt with all that a shell and Python might trip over."""
    live = scripted("hello world", no_playground=False, rule=ROOM, api_key="it's secret")
    page = visit(live.url)
    page.locator("#key input").fill("it's secret")
    prompt = 'Don\'t "panic" $HOME `id` \\n {x} \n é🙂'
    ask(page, prompt)
    finish(page)
    monkeypatch.setenv("OPTIMUS_API_KEY", "it's secret")
    shown = {}
    for name in ("curl", "python", "events"):
        page.locator(f"[data-drawer={name}] summary").click()
        page.wait_for_selector(f"[data-drawer={name}] pre:not(:empty)")
        shown[name] = page.text_content(f"[data-drawer={name}] pre")
        assert "secret" not in shown[name]
    asked = prompt_of(live)

    done = subprocess.run(["bash", "-c", shown["curl"] + " -sS"], capture_output=True, text=True, check=True)
    assert prompt_of(live) == asked
    kinds = [json.loads(line[6:]).get("diffusion", {}).get("type") for line in done.stdout.split("\n") if "{" in line]
    listed = [json.loads(line[6:]) for line in shown["events"].split("\n") if line.startswith("data: {")]
    assert [event.get("diffusion", {}).get("type") for event in listed] == kinds
    assert shown["events"].endswith("data: [DONE]")

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(shown["python"], {})
    assert printed.getvalue() == "hello world"
    assert prompt_of(live) == asked


def test_a_short_run_is_shown_again_slowly(demo, visit):
    page = visit(demo.url, reduced_motion="no-preference")
    ask(page, "Who are you?")
    finish(page)
    steps = page.get_attribute("#run input.step", "max")
    page.wait_for_function("document.querySelector('#run .play').textContent.includes('Pause')")
    assert page.input_value("#run input.step") != steps
    page.wait_for_function("document.querySelector('#run .play').textContent.includes('Replay')", timeout=20_000)
    assert page.input_value("#run input.step") == steps


def test_several_tabs_share_the_browsers_connections(scripted, browser):
    live = scripted("hello world", no_playground=False, rule=ROOM)
    with browser.new_context(reduced_motion="reduce") as context:
        tabs = [context.new_page() for _ in range(4)]
        for tab in tabs:
            tab.goto(live.url + "/playground/")
            tab.wait_for_function("document.querySelector('#run .state')?.textContent === 'online'")
        for tab in tabs:
            tab.locator("#generate").click()
            finish(tab)
            assert tab.text_content("#run .text") == "hello world"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_any_page_fits_its_window_and_can_be_read(demo, visit, width, dark):
    scheme = "dark" if dark else "light"
    page = visit(demo.url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.locator("#compare").click()
    page.wait_for_selector("#run .verdict:not([hidden])", timeout=60_000)
    for drawer in page.locator("#run summary").all():
        drawer.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.classList.contains('dark')") == dark
    assert page.locator("#run").evaluate(CONTRAST) >= 4.5


# The lowest contrast of a token's text with its box, filled or not.
CONTRAST = """(run) => {
  const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = (color, below) => {
    pen.fillStyle = below; pen.fillRect(0, 0, 1, 1); pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);
    const linear = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => {
      part /= 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const page = getComputedStyle(document.body).backgroundColor;
  const ratios = [...run.querySelectorAll(".cells .sent:not(.behind)")].map((cell) => {
    const style = getComputedStyle(cell), fill = style.backgroundImage.match(/oklch\\([^)]*\\)/)?.[0] ?? page;
    const pair = [light(style.color, page), light(fill, page)].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  });
  return Math.min(...ratios);
}"""
