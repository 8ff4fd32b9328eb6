"""The history in headless Chromium: search, replay, text that stays text, and how the pages look."""

import pytest

from tests.admin.conftest import asking, logged, until
from tests.store.samples import recording
from tests.web import spoken

MARKUP = "<u>x</u><img src=x onerror=alert(1)><script>alert(1)</script>"
ROOM = {"max_total_tokens": 2048}

# The lowest contrast of any text with what is behind it, and what that text is; SVG and canvas are no text.
CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((numbers(color)[3] ?? 1) > 0.99) return color;
    }
    return "rgb(255, 255, 255)";
  };
  let worst = [21, ""];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode, element = text.parentElement;
    if (!text.data.trim() || !element.checkVisibility() || "▪░".includes(text.data[0])) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < worst[0]) worst = [ratio, text.data.trim() + " " + element.className];
  }
  return worst;
}"""

# A cell of every shade of the heat map, whatever was measured.
SHADES = """() => {
  for (let level = 0; level < 7; level++) {
    const cell = document.createElement("td");
    cell.className = "q" + level;
    cell.textContent = "12.3";
    document.querySelector("#times tbody")?.append(cell);
  }
}"""


@pytest.fixture
def asked(demo):
    """A request in the demo server's log."""
    with asking(demo, "to-replay", chat=True) as found:
        pass
    logged(demo, "to-replay")
    return found[0].json()["choices"][0]["message"]["content"]


def test_a_request_is_searched_and_replayed(demo, asked, visit):
    page = visit(demo.url + "/admin")
    page.get_by_role("link", name="Requests").click()
    page.select_option("[name=endpoint]", "/v1/chat/completions")
    page.fill("[name=min_ms]", "1")
    page.get_by_role("button", name="Search").click()
    assert "min_ms=1" in page.url
    page.get_by_role("link", name="to-replay").first.click()
    page.wait_for_selector("#player:not([hidden])")
    assert page.locator("table.waterfall th").all_inner_texts() == [
        "validation", "queue", "prefill", "decode", "delivery",
    ]  # fmt: skip

    # At its end the picture spells the answer; at its first step almost all of it is masked.
    steps = int(page.get_attribute("#at", "max"))
    assert page.inner_text("#said").startswith(f"Step {steps} of {steps}, ")
    spelt = "".join(page.locator("#film .s, #film .f").all_text_contents()).replace("⏎\n", "\n")
    assert spelt.startswith(asked)
    page.locator("#at").focus()
    page.keyboard.press("Home")
    assert page.inner_text("#said").startswith(f"Step 1 of {steps}, ")
    assert page.locator("#film .m").count() > page.locator("#film .s, #film .f").count()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#said").startswith("Step 2 of ")
    page.select_option("#speed", "16")
    page.get_by_role("button", name="Play").click()
    until(page, f"document.querySelector('#said').textContent.startsWith('Step {steps} of')")
    page.get_by_role("button", name="Play").wait_for()

    box = page.locator("#strip").bounding_box()
    page.mouse.click(box["x"] + 2, box["y"] + 30)
    assert page.inner_text("#said").startswith("Step 1 of ")


def test_a_request_that_is_not_there_is_said(demo, visit):
    page = visit(demo.url + "/admin/requests")
    page.fill("[name=id]", "nobody")
    page.get_by_role("button", name="Open").click()
    assert "the log has no such request" in page.inner_text("[role=alert]")
    visit.said.clear()  # A 404 is an error on the console.


def test_the_export_is_downloaded(demo, asked, visit):
    page = visit(demo.url + "/admin/requests")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV of all that match").click()
    assert download.value.suggested_filename == "requests.csv"
    assert "to-replay" in download.value.path().read_text()


def test_html_stays_text_wherever_it_comes_from(scripted, tokenizer, file, visit):
    name = '<img/src="x"onerror="alert(1)">'
    with recording(str(file), log_text="full", block_size=8) as recorder:
        live = scripted(
            script=lambda request: spoken(tokenizer, MARKUP, 1), step_s=0.05, rule=ROOM, recorder=recorder,
            model_id=MARKUP,
        )  # fmt: skip
        page = visit(live.url + "/admin")
        with asking(live, name, inputs=MARKUP):
            page.wait_for_selector("#live tr")
            assert page.inner_text("#live tr td") == name
            page.get_by_role("button", name="Cancel").click()
        until(page, "document.querySelector('#audit td.text') !== null")
        assert page.locator("#audit td.text").first.inner_text() == name
        assert page.locator("main img, main u, main script").count() == 0
        logged(live, name)
        page.goto(live.url + "/admin/requests")
        page.get_by_role("link", name="<img").click()
        page.wait_for_selector("#player:not([hidden])")
        assert page.inner_text("h1") == name
        assert page.locator("pre").first.inner_text() == MARKUP
        assert page.locator("#film span *").count() == 0
        assert MARKUP.startswith("".join(page.locator("#film span").all_text_contents()))
        assert page.locator("main img, main u, main script").count() == 0


@pytest.mark.parametrize("path", ["", "/requests", "/requests/to-replay", "/audit"])
def test_a_narrow_page_does_not_scroll_sideways(demo, asked, visit, path):
    page = visit(f"{demo.url}/admin{path}", viewport={"width": 390, "height": 800})
    page.wait_for_timeout(700)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "/requests", "/requests/to-replay"])
def test_text_can_be_read_on_what_is_behind_it(demo, asked, visit, path, scheme):
    page = visit(f"{demo.url}/admin{path}", color_scheme=scheme)
    page.wait_for_timeout(700)
    ratio, text = page.evaluate(f"() => {{ ({SHADES})(); return ({CONTRAST})(); }}")
    assert ratio >= 4.5, text


def test_nothing_moves_for_who_wants_no_motion(demo, visit):
    page = visit(demo.url + "/admin", reduced_motion="reduce")
    moving = "[...document.querySelectorAll('*')].filter((e) => parseFloat(getComputedStyle(e).transitionDuration))"
    assert page.evaluate(f"{moving}.length") == 0
