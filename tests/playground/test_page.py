"""The page without a browser: its mount, its switch, and that building it asks nobody anything."""

import re
import socket
import subprocess
import sys

import pytest
from starlette.applications import Starlette

# Gradio leaves an event loop to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def with_page(scripted):
    return scripted("hello", no_playground=False)


def test_the_page_is_there_and_the_api_as_before(with_page):
    page = with_page.get("/playground/")
    assert page.status_code == 200
    assert "Optimus playground" in page.text
    assert with_page.get("/playground").headers["location"].endswith("/playground/")
    assert with_page.get("/health").status_code == 200
    assert with_page.get("/nowhere").json()["error_type"] == "not_found"
    # The engine runs, so our lifespan does inside the one that Gradio wraps around it.
    assert with_page.post("/generate", {"inputs": "x"}).json()["generated_text"] == "hello"


def test_without_it_there_is_no_page(scripted):
    assert scripted("hello").get("/playground/").status_code == 404


def test_nothing_of_it_is_imported_without_the_page():
    code = "import optimus_ui, optimus_server.app, sys; sys.exit('gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_is_asked_for_and_never_told(scripted):
    live = scripted("hello", no_playground=False, api_key="very-secret")
    assert "very-secret" not in live.get("/playground/").text + live.get("/playground/config").text


def test_building_the_page_resolves_no_name(monkeypatch):
    from optimus_ui.playground import page

    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or [])
    page.mount(Starlette(), needs_key=False)
    assert asked == []


def test_no_asset_writes_html_or_names_another_host():
    from optimus_ui.playground import page

    text = page.script() + page.asset("canvas.html") + page.asset("canvas.css") + page.asset("page.css")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\$\{value\}|https?://", text)
