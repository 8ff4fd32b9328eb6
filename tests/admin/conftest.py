import contextlib
import threading

import pytest

from tests.store.samples import recording
from tests.web import wait_for

QUESTION = "How does diffusion decoding work?"


class Visits:
    """Opens pages; what they asked for and what their consoles said is kept."""

    def __init__(self, browser):
        self._browser = browser
        self._contexts = []
        self.asked, self.said = [], []

    def __call__(self, url, **options):
        context = self._browser.new_context(**options)
        page = context.new_page()
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: self.said.append("markup ran"))
        page.goto(url)
        self._contexts.append(context)
        return page

    def close(self):
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(browser):
    """At the end nothing may have left the machine, and the consoles are clean."""
    visits = Visits(browser)
    yield visits
    visits.close()
    assert [url for url in visits.asked if not url.startswith(("http://127.0.0.1:", "data:"))] == []
    assert visits.said == []


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The demo model behind a server with a log that keeps text."""
    from optimus_server.app import create_app
    from optimus_server.backend import build_backend
    from optimus_server.settings import Settings
    from optimus_server.store.migrate import migrate
    from optimus_server.store.session import log_url
    from tests import web

    place = str(tmp_path_factory.mktemp("log") / "log.db")
    migrate(log_url(place))
    settings = Settings(max_batch_total_tokens=8192, max_batch_size=4, no_playground=True)
    backend = build_backend(settings)
    with (
        recording(place, log_text="full", block_size=32) as recorder,
        web.listening(create_app(settings, backend, recorder), backend.host.engine) as live,
    ):
        yield live
        web.wait_for(lambda: live.service.idle and not live.engine.busy)
        live.engine.check()


def until(page, expression):
    """Wait until it is true. (Playwright's own way evaluates text in the page, which the page's policy forbids.)"""
    wait_for(lambda: page.evaluate(expression), 10)


def logged(live, request_id):
    """Wait until a request is in the log."""
    wait_for(lambda: live.app.state.office.log.request(request_id))


@contextlib.contextmanager
def asking(live, request_id, *, inputs=QUESTION, chat=False, **parameters):
    """A request in a thread of its own; it is over when the block is left. Yields where its answer will be."""
    found = []

    def ask():
        headers = {"x-request-id": request_id}
        if chat:
            body = {"messages": [{"role": "user", "content": inputs}], "max_tokens": 200}
            found.append(live.post("/v1/chat/completions", body, headers=headers))
        else:
            found.append(live.post("/generate", {"inputs": inputs, "parameters": parameters}, headers=headers))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        thread.join()
