"""Bodies nobody would write: no 5xx, no hang, and an engine that is whole afterwards.

``--fuzz 10000`` makes it long.
"""

import json
import random

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from optimus_server.api.openapi import document
from tests.api.test_robustness import FIELDS, NOT_JSON, PATHS, VALUES
from tests.web import wait_for

SCHEMA = schemathesis.openapi.from_dict(document())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MORE_PATHS = [*PATHS, "/v1/responses", "/tokenize", "/chat_tokenize", "/invocations", "/vertex"]
MORE_FIELDS = [
    *FIELDS, "input", "instructions", "instances", "logprobs", "top_logprobs", "best_of", "echo", "suffix",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "tools", "response_format", "store",
]  # fmt: skip
PARAMETERS = [
    "best_of", "temperature", "repetition_penalty", "frequency_penalty", "top_k", "top_p", "typical_p", "do_sample",
    "max_new_tokens", "return_full_text", "stop", "truncate", "watermark", "details", "decoder_input_details", "seed",
    "top_n_tokens", "grammar", "adapter_id", "diffusion",
]  # fmt: skip
LIKELY = [1, 2, 3, 0.5, 1.0, True, False, None, "x", ["x"], {"chunk": 2}, {"policy": "block"}, {"transfer": 3}]
INPUTS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/chat_tokenize": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/vertex": {"instances": [{"inputs": "hi"}]},
}


@pytest.fixture(scope="module")
def small(model_dir):
    """The real engine behind narrow limits, so that accepted nonsense is answered soon."""
    from optimus_server.app import create_app
    from optimus_server.backend import build_backend
    from optimus_server.settings import Settings
    from tests import web

    chosen = Settings(
        model_id=str(model_dir),
        max_batch_total_tokens=2048,
        max_total_tokens=48,
        max_input_tokens=40,
        no_playground=True,
    )
    backend = build_backend(chosen)
    with web.listening(create_app(chosen, backend), backend.host.engine) as live:
        yield live
        wait_for(lambda: live.service.idle and not live.engine.busy)
        live.engine.check()
        load = live.service.load()
        assert (load.running, load.waiting, load.free_pages) == (0, 0, load.pages)


# Left out: routes that take the body of another one, and the one without an end.
@SCHEMA.exclude(
    path=["/v1", "/generate_stream", "/tokenize", "/chat_tokenize", "/vertex", "/v1/diffusion/events"]
).parametrize()
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_the_server_does_what_its_document_says(case, small):
    case.call_and_validate(base_url=small.url, checks=CHECKS, timeout=30)


def fuzzed(rng):
    """One request: path and raw body. Some of them are good."""
    path = rng.choice(MORE_PATHS)
    if rng.random() < 0.05:
        return path, rng.choice(NOT_JSON)
    body = dict(INPUTS.get(path, {"inputs": "hi"})) if rng.random() < 0.8 else {}
    pool = VALUES if rng.random() < 0.5 else LIKELY
    if "inputs" in body:
        names = rng.sample(PARAMETERS, rng.randint(0, 4))
        body["parameters"] = {name: rng.choice(pool) for name in names}
    extra = rng.choice([0, 0, 1, 2]) if "inputs" in body else rng.randint(0, 4)
    body |= {name: rng.choice(pool) for name in rng.sample(MORE_FIELDS, extra)}
    raw = json.dumps(body).encode()
    return path, raw if rng.random() < 0.97 else raw[: rng.randrange(len(raw))]


def test_fuzzed_bodies(small, pytestconfig):
    rng = random.Random(3)
    seen = {}
    with httpx.Client(base_url=small.url, timeout=30, headers={"content-type": "application/json"}) as client:
        for _ in range(pytestconfig.getoption("fuzz")):
            path, raw = fuzzed(rng)
            response = client.post(path, content=raw)
            assert response.status_code in (200, 400, 422), (path, raw[:300], response.status_code, response.text)
            if response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream"):
                assert '"error"' not in response.text.rsplit("data: ", 2)[1], (path, raw, response.text)
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
    assert min(seen[200], seen[422]) > sum(seen.values()) / 20, seen
    assert small.get("/health").status_code == 200
