"""The page without a browser: its mount, its switch, and that building it asks nobody anything."""

import asyncio
import re
import socket
import subprocess
import sys

import pytest
from starlette.applications import Starlette

PLAIN = {"needs_key": False, "chunks": (1, 2), "longest": 256, "load": 0}


@pytest.fixture
def with_page(scripted):
    return scripted("hello", no_playground=False)


def test_the_page_is_there_and_the_api_as_before(with_page):
    page = with_page.get("/playground/")
    assert page.status_code == 200
    assert "Optimus playground" in page.text
    assert "elastic decoding" in page.text
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
    page.mount(Starlette(), **PLAIN)
    assert asked == []


def test_building_the_page_leaves_no_event_loop(monkeypatch):
    from optimus_ui.playground import page

    made, make = [], asyncio.events.new_event_loop

    def noted():
        made.append(make())
        return made[-1]

    for module in (asyncio, asyncio.events):
        monkeypatch.setattr(module, "new_event_loop", noted)
    page.mount(Starlette(), **PLAIN)
    assert made
    assert all(loop.is_closed() for loop in made)


def test_the_controls_follow_what_info_says(scripted):
    live = scripted("hello", no_playground=False, playground_load=True)
    ladder = live.get("/info").json()["diffusion"]["ladder"]
    parts = {
        part["props"].get("elem_id"): part["props"] for part in live.get("/playground/config").json()["components"]
    }
    assert [value for _, value in parts["chunk"]["choices"]] == ["auto", *map(str, ladder)]
    assert parts["length"]["maximum"] == live.get("/info").json()["max_total_tokens"] - 1
    assert [value for _, value in parts["load"]["choices"]] == ["0", "4", "16", "64"]
    assert parts["load"]["visible"]


def test_without_the_setting_nobody_can_add_load(scripted):
    live = scripted("hello", no_playground=False)
    parts = live.get("/playground/config").json()["components"]
    assert [part["props"]["visible"] for part in parts if part["props"].get("elem_id") == "load"] == [False]


def test_no_asset_writes_html_or_names_another_host():
    from optimus_ui.playground import page

    text = (
        page.script(needs_key=True)
        + page.asset("canvas.html")
        + page.asset("talk.html")
        + page.asset("canvas.css")
        + page.asset("page.css")
    )
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\$\{value\}|https?://", text)
