import pytest


@pytest.fixture(scope="session")
def demo_server():
    """The demo model behind a real socket."""
    from optimus_server.app import create_app
    from optimus_server.backend import build_backend
    from optimus_server.settings import Settings
    from tests import web

    settings = Settings(max_batch_total_tokens=32_768, max_batch_size=8, no_playground=True)
    backend = build_backend(settings)
    with web.listening(create_app(settings, backend), backend.host.engine) as live:
        yield live
        web.wait_for(lambda: live.service.idle and not live.engine.busy)
        live.engine.check()
