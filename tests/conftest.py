import contextlib

import pytest
import torch

# The models of the tests are too small to gain from a second thread, and spinning for one slows a busy machine down.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    from optimus_server.text.tokenizer import Tokenizer
    from tests.web import small_tokenizer

    return Tokenizer(small_tokenizer())


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A directory that ``optimus serve`` can load: random weights, real tokenizer and chat template."""
    from tests.web import small_model

    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def scripted(tokenizer):
    """Starts servers whose engine says what it is told: ``scripted("text")`` or ``scripted(script=...)``."""
    from tests import web

    with contextlib.ExitStack() as stack:

        def start(text="hello world", *, script=None, step_s=0.0, per_step=3, end=True, rule=None, **settings):
            engine = web.ScriptedEngine(
                script or (lambda request: web.spoken(tokenizer, text, per_step, end)), step_s=step_s
            )
            app = web.application(engine, tokenizer, rule=rule, **settings)
            live = stack.enter_context(web.listening(app, engine))
            stack.callback(lambda: web.wait_for(lambda: live.service.permits_taken == 0))
            return live

        yield start


@pytest.fixture(scope="session")
def real(model_dir):
    """A server with the real engine and a tiny random model."""
    from optimus_server.app import create_app
    from optimus_server.backend import build_backend
    from optimus_server.settings import Settings
    from tests import web

    settings = Settings(model_id=str(model_dir), max_batch_total_tokens=8192, max_batch_size=16)
    backend = build_backend(settings)
    with web.listening(create_app(settings, backend), backend.engine) as live:
        yield live
        web.wait_for(lambda: live.service.idle and not live.engine.busy)
        live.engine.check()
