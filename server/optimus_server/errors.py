"""Every error a user can meet, with its code, its HTTP status and the field it is about.

One class per case. The API renders an error twice: as a status and a JSON body before the first byte of an answer,
as an SSE event after it. Nothing here knows about HTTP libraries.
"""


class OptimusError(Exception):
    """Base of all errors shown to users.

    Attributes:
        status: HTTP status before the first byte.
        code: TGI's ``error_type`` (``validation``, ``overloaded``, ``generation``, ...).
        param: the request field or setting the error is about, if there is one.
    """

    status = 500
    code = "internal"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(OptimusError):
    """A request that must not reach the engine: wrong type, out of range, too long."""

    status = 422
    code = "validation"


class ModelError(OptimusError):
    """A checkpoint directory that cannot be served: missing file, unknown architecture, wrong shape."""

    status = 500
    code = "model"


class GenerationFailed(OptimusError):
    """The engine could not finish a request it had accepted."""

    status = 424
    code = "generation"
