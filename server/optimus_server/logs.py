"""Log lines as text or JSON, with the id of the request they are about."""

import json
import logging
import time
from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that the current task answers."""


def set_up(*, as_json: bool) -> None:
    """Send our own lines from INFO on, and others' from WARNING on, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("optimus_server").setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line, with TGI's keys, and ``request_id`` and ``exception`` where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z"
        line = {
            "timestamp": stamp,
            "level": record.levelname,
            "message": record.getMessage(),
            "target": record.name,
        }
        if about := request_id.get():
            line["request_id"] = about
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
