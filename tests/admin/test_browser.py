"""The live page in headless Chromium, at a real server with the demo model."""

import re

import pytest

from tests.admin.conftest import QUESTION, asking, logged, until
from tests.web import wait_for

LONG = {"inputs": "x", "max_new_tokens": 1500, "temperature": 50.0, "do_sample": True, "seed": 1}
"""Nonsense for thousands of steps: tokens are drawn almost evenly, and this seed draws the end late."""
SLOW = LONG | {"diffusion": {"chunk": 1}}
CHOSEN = "document.querySelector('#card').hidden === false"


@pytest.fixture
def page(demo, visit):
    opened = visit(demo.url + "/admin")
    opened.wait_for_selector("#link.live")
    return opened


def test_decisions_appear_as_they_are_made_and_explain_themselves(demo, page):
    with asking(demo, "seen-live", **LONG):
        page.wait_for_selector("#live tr")
        assert page.inner_text("#live tr td") == "seen-live"
        until(page, "Number(document.querySelector('[data-figure=tokens_s]').textContent) > 0")
        until(page, "document.querySelectorAll('#live svg.cells rect').length === 32")
        page.wait_for_selector("#live svg.cells rect.s")
        demo.service.cancel("seen-live")
    page.wait_for_selector("#nothing:not([hidden])")
    page.locator("#tail tr").first.click()
    until(page, CHOSEN)
    reason = page.locator("#tail tr.chosen td").nth(2).inner_text().strip()
    why = page.get_attribute(f"[data-reason={reason}]", "data-why")
    assert f"{reason}: {why}." in page.inner_text("#card")
    assert re.search(r"observed\s[\d.]+ ms", page.inner_text("#card"))


def test_the_chart_is_steered_by_keys_and_by_pointer(demo, page):
    for name in ("load-1", "load-2"):
        with asking(demo, name, chat=True):
            pass
    page.wait_for_selector("#times td b")
    page.wait_for_selector("#yields svg.bars")
    chart = page.locator("#timeline")
    chart.focus()
    page.keyboard.press("End")
    until(page, CHOSEN)
    newest = page.inner_text("#card p")
    page.keyboard.press("Home")
    assert chart.get_attribute("aria-valuenow") == "1"
    assert re.match(r"chunk \d+, \w+", chart.get_attribute("aria-valuetext"))
    # The newest mark once more, by pointer: at the right end, within the row of marks.
    box = chart.bounding_box()
    for left in range(34, 300, 4):
        page.mouse.click(box["x"] + box["width"] - left, box["y"] + box["height"] - 30)
        if page.inner_text("#card p") == newest:
            return
    pytest.fail("no mark can be clicked")


def test_cancel_frees_the_request(demo, page):
    with asking(demo, "to-cancel", **SLOW) as found:
        page.get_by_role("button", name="Cancel to-cancel").click()
    assert found[0].status_code == 200
    wait_for(lambda: demo.service.idle and not demo.engine.busy)
    demo.engine.check()
    until(page, "document.querySelector('#audit').textContent.includes('to-cancel')")


def test_a_pinned_chunk_is_what_steps_show_and_the_reason_is_manual(demo, page):
    page.select_option("#knobs select", "4")
    page.get_by_role("button", name="Apply").click()
    try:
        until(page, "document.querySelector('#audit').textContent.includes('chunk 4, target none')")
        with asking(demo, "pinned", chat=True):
            pass
        until(page, "document.querySelector('#tail tr').textContent.includes('manual')")
        logged(demo, "pinned")
        page.goto(demo.url + "/admin/requests/pinned")
        page.get_by_text("Steps as a table").click()
        chunks = [int(text) for text in page.locator("details tbody td:nth-child(3)").all_inner_texts()]
        reasons = {text.strip() for text in page.locator("details tbody td:nth-child(4)").all_inner_texts()}
        assert set(chunks[2:]) == {4}
        assert reasons <= {"manual", "idle"}
    finally:
        page.goto(demo.url + "/admin")
        page.select_option("#knobs select", "auto")
        page.get_by_role("button", name="Apply").click()
        wait_for(lambda: demo.service.knobs.chunk is None)


def test_what_is_entered_stays_until_it_is_sent(demo, page, visit):
    page.select_option("#knobs select", "16")
    other = visit(demo.url + "/admin")
    other.fill("#knobs [name=tpot_ms]", "40")
    other.get_by_role("button", name="Apply").click()
    page.get_by_text("in force: chunk auto, target 40 ms").wait_for()
    assert page.input_value("#knobs select") == "16"
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("in force: chunk 16, target none").wait_for()
    other.get_by_text("in force: chunk 16, target none").wait_for()
    until(other, "document.querySelector('#knobs select').value === '16'")
    page.select_option("#knobs select", "auto")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("in force: chunk auto, target none").wait_for()


def test_admission_is_paused_and_goes_on(demo, page):
    page.get_by_role("button", name="Pause admission").click()
    page.get_by_text("Admission is paused").wait_for()
    with asking(demo, "held", chat=True) as found:
        until(page, "document.querySelector('[data-figure=held]').textContent === '1'")
        assert page.locator("#live tr", has_text="held").locator("td").nth(2).inner_text() == "queue"
        assert not found
        page.get_by_role("button", name="Admit").click()
    assert found[0].status_code == 200
    page.get_by_text("Requests are admitted").wait_for()


def test_a_drained_server_says_so_until_it_is_opened(demo, page):
    page.get_by_role("button", name="Drain").click()
    until(page, "!document.querySelector('#problem').hidden")
    assert demo.post("/generate", {"inputs": "x"}).status_code == 503
    until(page, "Number(document.querySelector('[data-figure=failed]').textContent) > 0")
    page.get_by_role("button", name="Open").click()
    until(page, "document.querySelector('#problem').hidden")


def test_what_is_refused_is_told_on_the_page(demo, page, visit):
    page.fill("#knobs [name=tpot_ms]", "-5")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("`tpot_ms` must be a number from 0.001 to 60000").wait_for()
    visit.said.clear()  # A 422 is an error on the console.


def test_the_list_of_decisions_can_be_held(demo, page):
    page.get_by_role("button", name="Hold the list").click()
    before, ended = page.inner_text("#tail"), int(page.inner_text("[data-figure=ended]"))
    for chunk in (2, 5):
        with asking(demo, f"behind-{chunk}", max_new_tokens=8, diffusion={"chunk": chunk}):
            pass
    # Figures of requests come with or after the decisions.
    until(page, f"Number(document.querySelector('[data-figure=ended]').textContent) >= {ended + 2}")
    assert page.inner_text("#tail") == before
    page.get_by_role("button", name="Let the list go on").click()
    assert page.inner_text("#tail") != before


def test_a_hidden_page_closes_its_only_stream(demo, page, visit):
    office = demo.app.state.office
    wait_for(lambda: office.open_pages == 1)
    show = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(f"Object.defineProperty(document, 'hidden', {{value: true, configurable: true}}); {show}")
    wait_for(lambda: office.open_pages == 0)
    page.evaluate(f"Object.defineProperty(document, 'hidden', {{value: false, configurable: true}}); {show}")
    wait_for(lambda: office.open_pages == 1)
    page.evaluate("0")  # What the browser has told by now is known after it answers.
    assert sum(url.endswith("/admin/events") for url in visit.asked) == 2


def test_it_reads_and_obeys_without_scripts(demo, visit):
    with asking(demo, "bare", **SLOW):
        wait_for(lambda: demo.engine.load().running == 1)
        page = visit(demo.url + "/admin", java_script_enabled=False)
        assert page.locator("#live tr td").first.inner_text() == "bare"
        assert page.inner_text("[data-figure=running]") == "1"
        assert float(page.inner_text("[data-figure=step_p50_ms]")) > 0
        assert page.locator("#tail tr").count() > 0
        assert "The chart needs scripts" in page.inner_text("section:has(#timeline)")
        page.locator("#live button").click()
    assert page.url == demo.url + "/admin"
    page.select_option("#knobs select", "8")
    page.get_by_role("button", name="Apply").click()
    assert page.input_value("#knobs select") == "8"
    assert demo.service.knobs.chunk == 8
    page.select_option("#knobs select", "auto")
    page.get_by_role("button", name="Apply").click()
    assert page.locator("#audit", has_text=QUESTION).count() == 0
    assert page.locator("#audit td.text").first.inner_text() == "chunk auto, target none"
