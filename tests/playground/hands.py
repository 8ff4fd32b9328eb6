"""What a visitor does with the page, and sees of it."""

DONE = ".optimus[data-run=done]"
ROOM = {"max_total_tokens": 2048}  # For what the page asks by default.


def ask(page, text):
    page.locator("#prompt textarea").fill(text)
    page.locator("#generate").click()


def choose(page, control, value):
    page.locator(control).get_by_text(value, exact=True).click()


def finish(page):
    page.wait_for_selector(DONE, timeout=60_000)


def again(page):
    """Generate once more and wait for the end of that run, not of the one before."""
    page.locator("#generate").click()
    page.wait_for_selector(".optimus[data-run=running]")
    finish(page)


def spelled(page, pane="#run .pane"):
    """What the boxes before the caret say."""
    boxes = page.locator(f"{pane} .cells .sent:not(.behind)").all_text_contents()
    return "".join(boxes).replace("↵", "\n").replace("␣", " ").removesuffix("<|end|>")


def prompt_of(live):
    """What the engine was asked last."""
    request = live.engine.seen[-1]
    return request.tokens[: request.prompt_len].tolist()
