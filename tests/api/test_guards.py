"""The key, and errors in the shape of the route they happen on."""

import pytest


@pytest.mark.parametrize("given", [None, "", "Bearer wrong", "secret", "Bearer secré"])
def test_without_the_key_nothing_is_generated(scripted, given):
    live = scripted(api_key="secret")
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    response = live.post("/generate", {"inputs": "x"}, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error_type"] == "invalid_api_key"
    assert live.post("/v1/completions", {"prompt": "x"}, headers=headers).json()["error"]["code"] == "invalid_api_key"


def test_with_the_key(scripted):
    live = scripted("hello", api_key="secret")
    headers = {"authorization": "Bearer secret"}
    assert live.post("/generate", {"inputs": "x"}, headers=headers).status_code == 200
    assert live.get("/info").status_code == 200
    assert live.get("/health").status_code == 200
