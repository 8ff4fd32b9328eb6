import json

import pytest
from hypothesis import given, strategies as st

from optimus_server.bench.client import Recording
from optimus_server.bench.questions import FileQuestion
from optimus_server.bench.trace import read

QUESTION = FileQuestion("t", "once", "answers", ("hello world",))


def event(**payload):
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chat(text, reason=None, **more):
    return event(choices=[{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}], **more)


def token(text, **more):
    return event(token={"id": 1, "text": text}, **more)


def recording(*pieces, status=200, broken=None, end=True):
    """Pieces of a body that comes chunk by chunk at 1, 2, 3 ... seconds, of a request that was due at 0.5."""
    found = Recording(QUESTION, due=0.5, sent=0.6, broken=broken)
    head = b"HTTP/1.1 %d X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" % status
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
    last = b"0\r\n\r\n" if end else b""
    found.pieces.append((0.7, head))
    found.pieces += [(float(number), chunk) for number, chunk in enumerate(chunks, 1)]
    if found.pieces:
        when, piece = found.pieces[-1]
        found.pieces[-1] = when, piece + last
    return found


DONE = b"data: [DONE]\n\n"


def test_a_chat():
    trace = read(
        recording(
            event(choices=[{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}], usage=None),
            chat("hello") + chat(" wo"),
            chat("rl"),
            chat("d") + chat("", "stop") + event(choices=[], usage={"completion_tokens": 22}),
            DONE,
        ),
        "openai",
    )
    assert trace.problem is None
    assert (trace.text, trace.tokens, trace.counted) == ("hello world", 22, "usage")
    assert trace.ttft == 1.5  # from when it was due to the first text, not to the role
    assert trace.e2e == 4.5
    # 11 characters are 22 tokens, so 16 came first, and 6 in the two seconds after
    assert [when for when, _ in trace.deliveries] == [2.0, 2.0, 3.0, 4.0]
    assert [tokens for _, tokens in trace.deliveries] == pytest.approx([10, 6, 4, 2])
    assert trace.tpot == pytest.approx(2 / 6)
    assert trace.gaps == [1.0, 1.0]
    assert trace.question.accepts(trace.text)


def test_completions_have_text_in_the_choice_and_maybe_no_usage():
    part = [event(choices=[{"text": text, "finish_reason": None}]) for text in ("hello", " world")]
    trace = read(recording(*part, event(choices=[{"text": "", "finish_reason": "length"}])), "openai")
    assert (trace.text, trace.tokens, trace.counted) == ("hello world", 2, "events")
    assert trace.tpot == 1.0


def test_what_a_server_counts_beyond_the_end_is_no_text():
    found = recording(chat("hello"), chat(" world"), chat("", "stop", usage={"completion_tokens": 32}), DONE)
    assert read(found, "openai").tokens == 32
    trace = read(found, "openai", length=lambda text: len(text.split()))
    assert (trace.text, trace.tokens, trace.counted) == ("hello world", 2, "text")
    assert sum(tokens for _, tokens in trace.deliveries) == pytest.approx(2)
    assert trace.tpot == pytest.approx(1 / (2 * 6 / 11))


def test_tgi_has_an_event_for_each_token():
    last = token("", generated_text="hello world", details={"generated_tokens": 3})
    trace = read(recording(token("hello") + token(" world"), last), "tgi")
    assert (trace.text, trace.tokens, trace.counted) == ("hello world", 3, "usage")
    assert trace.deliveries == ((1.0, 1.0), (1.0, 1.0), (2.0, 1.0))
    assert trace.tpot == 1.0


def test_an_answer_in_one_delivery_has_no_time_per_token():
    trace = read(recording(chat("hello world") + chat("", "stop", usage={"completion_tokens": 4}), DONE), "openai")
    assert (trace.tpot, trace.gaps, trace.e2e) == (None, [], 1.5)


@given(st.lists(st.integers(1, 60), max_size=12), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 90))
def test_chunks_and_reads_may_end_anywhere(lengths, newline, cut):
    stream = b": comment\n\n" + chat("hello") + chat(" world") + chat("", "stop", usage={"completion_tokens": 2}) + DONE
    stream = stream.replace(b"\n", newline)
    pieces = []
    for length in lengths:
        pieces.append(stream[:length])
        stream = stream[length:]
    found = recording(*pieces, stream)
    whole = b"".join(piece for _, piece in found.pieces)
    found.pieces = [(float(i), whole[i : i + cut]) for i in range(0, len(whole), cut)]
    trace = read(found, "openai")
    assert (trace.problem, trace.text, trace.tokens) == (None, "hello world", 2)
    assert sum(tokens for _, tokens in trace.deliveries) == pytest.approx(2)


BROKEN = [
    (recording(), "the stream ended early"),
    (recording(broken="connection refused"), "connection refused"),
    (recording(end=False), "the connection broke: "),
    (Recording(QUESTION, 0.5), "the connection broke: "),
    (Recording(QUESTION, 0.5, 0.6, [(1.0, b"SSH-2.0\r\n\r\n")]), "the connection broke: "),
    (recording(event(error={"message": "the engine gave up"}), DONE), "the engine gave up"),
    (recording(event(error="out of pages", error_type="generation")), "out of pages"),
    (recording(b'{"error": {"message": "no such model"}}', status=404), "HTTP 404: no such model"),
    (recording(b'{"error": "too long", "error_type": "validation"}', status=422), "HTTP 422: too long"),
    (recording(b"<html>", status=502), "HTTP 502: <html>"),
    (recording(b"data: {\n\n"), "not an event of this API: {"),
    (recording(b"data: []\n\n"), "not an event of this API: []"),
]
BROKEN_CHATS = [
    (recording(chat("hello")), "the stream ended early"),
    (recording(chat("hello"), broken="reset"), "reset"),
    (recording(chat("hello"), end=False), "the connection broke: "),
    (recording(chat("", "stop"), DONE), "the answer is empty"),
    (recording(chat("a"), event(error={"message": "the engine gave up"}), DONE), "the engine gave up"),
    (recording(event(choices=[3])), "not an event of this API"),
]


@pytest.mark.parametrize(
    ("api", "found", "problem"),
    [(api, *case) for api in ("openai", "tgi") for case in BROKEN] + [("openai", *case) for case in BROKEN_CHATS],
)
def test_what_is_no_complete_answer_has_a_problem(api, found, problem):
    trace = read(found, api)
    assert problem in trace.problem
    assert not trace.refused


@pytest.mark.parametrize("status", [429, 503])
def test_a_full_server_refuses(status):
    trace = read(recording(b'{"error": "Model is overloaded", "error_type": "overloaded"}', status=status), "tgi")
    assert trace.refused
    assert trace.problem == f"HTTP {status}: Model is overloaded"
