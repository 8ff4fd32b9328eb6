"""Every error a user can meet, with its code, its HTTP status and the field it is about.

One class per case. Each takes the shape of the route it happened on: TGI's ``{"error", "error_type"}`` on
native routes, OpenAI's ``{"error": {...}}`` on ``/v1``; as a status and a body before the first byte of the
answer, as an SSE event after it. Nothing here knows about HTTP libraries.
"""

from typing import Any


class OptimusError(Exception):
    """Base of all errors shown to users.

    Attributes:
        status: HTTP status before the first byte.
        code: TGI's ``error_type`` (``validation``, ``overloaded``, ``generation``, ...).
        kind: OpenAI's ``type``.
        prefix: what TGI puts before the message of this class; its clients show it as it is.
        headers: sent with the status.
        param: the request field or setting the error is about, if there is one.
    """

    status = 500
    code = "internal"
    kind = "server_error"
    prefix = ""

    def __init__(self, message: str, *, param: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}

    def tgi(self) -> dict[str, Any]:
        """The JSON body of the native routes."""
        return {"error": self.prefix + self.message, "error_type": self.code}

    def openai(self) -> dict[str, Any]:
        """The JSON body of ``/v1``; OpenAI's client shows no message if ``error`` is a string."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


class InvalidRequest(OptimusError):
    """A request that must not reach the engine: wrong type, out of range, too long."""

    status = 422
    code = "validation"
    kind = "invalid_request_error"
    prefix = "Input validation error: "


class Malformed(InvalidRequest):
    """The body is not JSON in UTF-8."""

    status = 400


class UnsupportedMediaType(InvalidRequest):
    """The body does not claim to be JSON."""

    status = 415


class TemplateFailed(InvalidRequest):
    """The checkpoint has no chat template, or it refused these messages."""

    code = "template_error"
    prefix = "Template error: "


class TooManyPrompts(InvalidRequest):
    """More prompts in one request than are served together."""

    code = "batch size exceeded"
    prefix = ""


class SuffixUnsupported(InvalidRequest):
    """``suffix`` of /v1/completions; the message is TGI's."""

    code = "suffix not supported"
    prefix = ""


class Refused(OptimusError):
    """A status of HTTP itself: no such route, method or model, body too large, key missing.

    Args:
        status: the 4xx to answer with.
    """

    code = "validation"
    kind = "invalid_request_error"

    def __init__(
        self, message: str, *, status: int, code: str = "validation", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, headers=headers)
        self.status = status
        self.code = code


class Overloaded(OptimusError):
    """All permits are taken. Answered at once, so that a proxy or a client can go elsewhere."""

    status = 429
    code = "overloaded"
    kind = "rate_limit_error"

    def __init__(self) -> None:
        super().__init__("Model is overloaded", headers={"retry-after": "1"})


class Unavailable(OptimusError):
    """The server is draining. Nothing else is a 503, which @huggingface/inference retries for ever."""

    status = 503
    code = "healthcheck"

    def __init__(self, message: str = "unhealthy") -> None:
        super().__init__(message, headers={"retry-after": "5"})


class GenerationFailed(OptimusError):
    """The engine could not finish a request it had accepted."""

    status = 424
    code = "generation"
    prefix = "Request failed during generation: "


class ShuttingDown(GenerationFailed):
    """The time that a draining server gives to running requests is over."""

    status = 503
    prefix = ""

    def __init__(self) -> None:
        super().__init__("Server is shutting down", headers={"retry-after": "5"})


class TimedOut(GenerationFailed):
    """The request has taken longer than the server allows."""

    status = 504
    code = "timeout"
    prefix = ""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request took longer than {seconds:g} s")


class EngineStopped(OptimusError):
    """The engine's thread has ended after an error; only a restart helps, and /health says so."""

    status = 500
    code = "generation"


class ModelError(OptimusError):
    """A checkpoint directory that cannot be served: missing file, unknown architecture, wrong shape."""

    code = "model"


class SettingsError(OptimusError):
    """Settings the server refuses to start with; ``param`` is the setting."""

    code = "settings"
