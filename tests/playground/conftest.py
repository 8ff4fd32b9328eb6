import pytest


@pytest.fixture
def visit(browser):
    """Opens the playground of a server; at the end, nothing may have left the machine and the console is clean."""
    seen, said, pages = [], [], []

    def opened(url, expected=None, **options):
        """Motion is reduced, so that no replay starts by itself, unless a test asks for it.

        Args:
            expected: what errors on the console may hold.
            options: of the page.
        """
        page = browser.new_page(**{"reduced_motion": "reduce"} | options)
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: heard(message, expected))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url + "/playground/")
        page.wait_for_selector("#run .cells")
        pages.append((page, url))
        return page

    def heard(message, expected):
        if message.type == "error" and not (expected and expected in message.text):
            said.append(message.text)

    yield opened
    for page, url in pages:
        page.close()
        assert [address for address in seen if not address.startswith((url, "data:", "blob:"))] == []
    assert said == []


@pytest.fixture(scope="session")
def demo():
    """The demo model, with the page. All is real but what the controller knows of step times.

    It takes them for those of a device that computes 32 positions in the time of one, and then each for the same: what
    it would measure here depends on what other programs do meanwhile.
    """
    from optimus_server.app import create_app
    from optimus_server.backend import build_backend
    from optimus_server.engine.elastic.latency import LatencyModel, Profile
    from optimus_server.settings import Settings
    from tests import web

    settings = Settings(max_batch_total_tokens=16384, max_batch_size=24, playground_load=True, no_profile=True)
    backend = build_backend(settings)
    known = LatencyModel(Profile((1, 32, 2048), (1.0, 1.0, 64.0), 0.0))
    known.observe = lambda *step: None
    backend.host.engine.scheduler.know(known)
    with web.listening(create_app(settings, backend), backend.host.engine) as live:
        yield live
        web.wait_for(lambda: live.service.idle and not live.engine.busy)
        live.engine.check()
