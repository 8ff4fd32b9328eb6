import contextlib
import os
import shutil

import pytest
import torch

# Without a GPU, Triton's kernels run in its interpreter. It looks at this when it is imported first.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The models of the tests are too small to gain from a second thread, and spinning for one slows a busy machine down.
torch.set_num_threads(1)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking"]


def pytest_addoption(parser):
    parser.addoption("--fuzz", type=int, default=150, help="fuzzed bodies to send")
    parser.addoption("--streams", type=int, default=256, help="streams at once")
    parser.addoption("--seconds", type=float, default=0.5, help="how long they last, at 100 steps a second")
    parser.addoption("--leavers", type=int, default=100, help="clients that leave at random moments")


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory):
    """Servers that tests start in processes of their own keep their logs here, not in somebody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def tokenizer():
    from optimus_server.text.tokenizer import Tokenizer
    from tests.web import small_tokenizer

    return Tokenizer(small_tokenizer())


@pytest.fixture
def prompt(tokenizer):
    """One that asks for nothing special."""
    from optimus_server.text.ask import Ask
    from optimus_server.text.prompt import Prompter
    from tests.web import rules

    return Prompter(tokenizer, rules()).prompt(Ask(inputs="hello"))


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

    # A fixed chunk size, so that equal requests have equal answers whatever else runs.
    settings = Settings(
        model_id=str(model_dir), max_batch_total_tokens=8192, max_batch_size=16, chunk=16, no_playground=True
    )
    backend = build_backend(settings)
    with web.listening(create_app(settings, backend), backend.host.engine) as live:
        yield live
        web.wait_for(lambda: live.service.idle and not live.engine.busy)
        live.engine.check()


@pytest.fixture
def file(tmp_path):
    """An empty request log."""
    from optimus_server.store.migrate import migrate
    from optimus_server.store.session import log_url

    path = tmp_path / "log.db"
    migrate(log_url(str(path)))
    return path


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, which can resolve no name.

    Playwright's event loop counts as running in this thread until it is stopped: until then no test could run its own.
    """
    if not CHROMIUM:
        assert "OPTIMUS_BROWSER" not in os.environ, "no chromium"
        pytest.skip("no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
