"""The application as a whole: routes that do not exist, CORS, bugs."""

import httpx

from tests.web import spoken


def test_unknown_routes_and_methods(scripted):
    live = scripted()
    response = live.get("/nowhere")
    assert (response.status_code, response.json()["error_type"]) == (404, "not_found")
    response = live.get("/v1/nowhere")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = live.get("/generate")
    assert (response.status_code, response.json()["error_type"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_cors(scripted):
    live = scripted()
    headers = {"origin": "https://page", "access-control-request-method": "POST"}
    wanted = {"access-control-request-headers": "authorization, content-type, x-request-id"}
    response = httpx.options(live.url + "/generate", headers=headers | wanted)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "*"
    response = live.post("/generate", {"inputs": "x"}, headers={"origin": "https://page"})
    assert "x-generated-tokens" in response.headers["access-control-expose-headers"]
    closed = scripted(cors_allow_origin="https://mine")
    refused = closed.post("/generate", {"inputs": "x"}, headers={"origin": "https://page"})
    assert "access-control-allow-origin" not in refused.headers


def test_a_bug_is_a_500_without_its_insides(scripted, monkeypatch, tokenizer, caplog):
    live = scripted(script=lambda request: spoken(tokenizer, "x"))
    monkeypatch.setattr(live.service, "permit", lambda wish: 1 / 0)
    headers = {"x-request-id": "mine", "origin": "https://page"}
    response = live.post("/generate", {"inputs": "x"}, headers=headers)
    assert response.status_code == 500
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["access-control-allow-origin"] == "*"
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "POST /generate failed" in record.message
    assert "ZeroDivisionError" in caplog.text
    assert response.json() == {"error": "internal error", "error_type": "internal"}
