"""Log lines."""

import json
import logging

from optimus_server import logs


def record(message, *arguments, **extra):
    return logging.LogRecord(
        "optimus_server.x", logging.INFO, "f.py", 1, message, arguments, **{"exc_info": None} | extra
    )


def test_a_line_is_one_json_object_with_the_request_it_is_about():
    line = json.loads(logs.JsonLines().format(record("a %s\nb", "🙂")))
    assert set(line) == {"timestamp", "level", "message", "target"}
    assert (line["level"], line["message"], line["target"]) == ("INFO", "a 🙂\nb", "optimus_server.x")
    token = logs.request_id.set("r1")
    try:
        text = logs.JsonLines().format(record("x"))
    finally:
        logs.request_id.reset(token)
    assert "\n" not in text
    assert json.loads(text)["request_id"] == "r1"


def test_tracebacks_stay_on_the_line():
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        text = logs.JsonLines().format(record("x", exc_info=(type(error), error, error.__traceback__)))
    assert "\n" not in text
    assert "ZeroDivisionError" in json.loads(text)["exception"]
