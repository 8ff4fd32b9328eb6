"""Health, information, models."""

import pytest


@pytest.mark.parametrize("path", ["/", "/health", "/ping"])
def test_health(scripted, path):
    live = scripted()
    response = live.get(path)
    assert (response.status_code, response.content) == (200, b"")
    live.service.draining = True
    response = live.get(path)
    assert response.status_code == 503
    assert response.json() == {"error": "unhealthy", "error_type": "healthcheck"}
    assert "retry-after" in response.headers


def test_a_draining_server_lives_but_is_not_ready(scripted):
    live = scripted()
    assert [live.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    live.service.draining = True
    assert [live.get(path).status_code for path in ("/livez", "/readyz")] == [200, 503]


def test_a_dead_engine_is_neither_alive_nor_ready(scripted):
    live = scripted()
    live.engine.explode = True
    assert live.post("/generate", {"inputs": "x"}).status_code == 500
    for path in ("/livez", "/readyz", "/health"):
        response = live.get(path)
        assert response.status_code == 503
        assert response.json() == {"error": "unhealthy", "error_type": "healthcheck"}


def test_info(scripted):
    info = scripted(max_concurrent_requests=7).get("/info").json()
    tgi = {
        "model_id", "model_sha", "model_pipeline_tag", "max_concurrent_requests", "max_best_of",
        "max_stop_sequences", "max_input_tokens", "max_total_tokens", "validation_workers", "max_client_batch_size",
        "router", "version", "sha", "docker_label", "model_dtype", "model_device_type", "max_input_length",
        "waiting_served_ratio", "max_batch_total_tokens", "max_waiting_tokens", "max_batch_size", "diffusion",
    }  # fmt: skip
    assert set(info) == tgi
    assert (info["model_id"], info["max_concurrent_requests"]) == ("org/scripted", 7)
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (200, 256)
    diffusion = info["diffusion"]
    assert (diffusion["block_length"], diffusion["chunk_max"], diffusion["mask_token_id"]) == (8, 16, 1)
    assert diffusion["ladder"] == [1, 2, 4, 8, 16]
    assert "watermark" in diffusion["unsupported_parameters"]


def test_models(scripted):
    live = scripted()
    model = {"id": "org/scripted", "object": "model", "created": 0, "owned_by": "org/scripted"}
    assert live.get("/v1/models").json() == {"object": "list", "data": [model]}
    assert live.get("/v1/models/org/scripted").json() == model
    missing = live.get("/v1/models/gpt-4")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"
