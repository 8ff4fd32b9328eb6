"""The document agrees with the routes, and with what the bodies accept."""

import re

from starlette.routing import Route

from optimus_server.api.openapi import GETS, POSTS, document
from optimus_server.api.schemas import Parameters
from optimus_server.app import ROUTES


def test_every_route_is_documented_and_every_document_is_a_route():
    routes = {(re.sub(":path", "", route.path), method) for route in ROUTES for method in methods(route)}
    assert {(path, "POST") for path in POSTS} | {(path, "GET") for path in GETS} == routes


def methods(route: Route):
    return (route.methods or set()) - {"HEAD"}


def test_fields_come_from_the_bodies(scripted):
    served = scripted().get("/api-doc/openapi.json").json()
    assert served == document()
    assert served["openapi"] == "3.1.0"
    schemas = served["components"]["schemas"]
    assert set(schemas["Parameters"]["properties"]) == set(Parameters.model_fields)
    assert schemas["ChatRequest"]["required"] == ["messages"]
    named = set(re.findall(r"#/components/schemas/(\w+)", str(served)))
    assert named <= set(schemas)


def test_the_page_loads_nothing_from_elsewhere(scripted):
    response = scripted().get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    page = response.text
    assert not re.findall(r"(src|href)=.(https?:)?//", page)
    assert "<script" not in page
    for path in (*POSTS, *GETS):
        assert f"<code>{path}</code>" in page
    assert "<code>max_new_tokens</code>" in page
