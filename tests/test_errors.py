"""Both renderings of every error."""

import pytest

from optimus_server import errors


@pytest.mark.parametrize(
    ("error", "status", "error_type", "text"),
    [
        (errors.InvalidRequest("x"), 422, "validation", "Input validation error: x"),
        (errors.Malformed("x"), 400, "validation", "Input validation error: x"),
        (errors.UnsupportedMediaType("x"), 415, "validation", "Input validation error: x"),
        (errors.TemplateFailed("x"), 422, "template_error", "Template error: x"),
        (errors.TooManyPrompts("x"), 422, "batch size exceeded", "x"),
        (errors.SuffixUnsupported("x"), 422, "suffix not supported", "x"),
        (errors.Refused("x", status=404, code="not_found"), 404, "not_found", "x"),
        (errors.Overloaded(), 429, "overloaded", "Model is overloaded"),
        (errors.Unavailable(), 503, "healthcheck", "unhealthy"),
        (errors.GenerationFailed("x"), 424, "generation", "Request failed during generation: x"),
        (errors.ShuttingDown(), 503, "generation", "Server is shutting down"),
        (errors.EngineStopped("x"), 500, "generation", "x"),
    ],
)
def test_renderings(error, status, error_type, text):
    assert error.status == status
    assert error.tgi() == {"error": text, "error_type": error_type}
    inner = error.openai()["error"]
    assert set(inner) == {"message", "type", "param", "code"}
    assert (inner["message"], inner["code"]) == (error.message, error_type)


def test_what_may_be_retried_says_when():
    assert errors.Overloaded().headers == {"retry-after": "1"}
    assert "retry-after" in errors.Unavailable().headers


def test_the_field_is_named():
    assert errors.InvalidRequest("x", param="top_p").openai()["error"]["param"] == "top_p"
