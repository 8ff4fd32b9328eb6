"""From a recording to what it means: tokens, times and text of one answer."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import h11

from optimus_server.bench.client import Api, Recording
from optimus_server.demo.evaluate import Question

Counted = Literal["usage", "events", "text"]

REFUSED = (429, 503)
"""What a server says that is full; a request it refuses has not failed."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer, understood.

    Attributes:
        problem: why there is no complete answer; None if there is one, and only then do the others mean anything.
        refused: the server was full.
        deliveries: (time, tokens) of each event that brought text; where the server does not say how many tokens an
            event has, its share of the answer's characters is its share of the answer's tokens.
        tokens: of the whole answer, the end token included if the server counts it.
        counted: by the server's usage, by events that held text, or by the answer's text.
    """

    recording: Recording
    problem: str | None = None
    refused: bool = False
    deliveries: tuple[tuple[float, float], ...] = ()
    tokens: int = 0
    counted: Counted = "usage"
    text: str = ""

    @property
    def question(self) -> Question:
        return self.recording.question

    @property
    def due(self) -> float:
        return self.recording.due

    @property
    def end(self) -> float:
        pieces = self.recording.pieces
        return pieces[-1][0] if pieces else self.recording.sent

    @property
    def ttft(self) -> float:
        return self.deliveries[0][0] - self.due

    @property
    def e2e(self) -> float:
        return self.end - self.due

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first delivery; None if that was all.

        Where every delivery is one token this is what other benchmarks report. They divide by tokens - 1 whatever the
        first delivery held, which makes a server that sends 16 tokens at once look 16 times as fast as it is.
        """
        first, last = self.deliveries[0][0], self.deliveries[-1][0]
        after = sum(tokens for when, tokens in self.deliveries if when > first)
        return (last - first) / after if after else None

    @property
    def gaps(self) -> list[float]:
        """Between reads that brought text: what somebody who watches the stream waits."""
        return [after - before for before, after in pairwise(dict.fromkeys(when for when, _ in self.deliveries))]


@dataclass(slots=True)
class _Answer:
    """What the events of a stream add up to."""

    parts: list[tuple[float, str]] = field(default_factory=list)
    usage: int | None = None
    whole: str | None = None
    over: bool = False
    error: str | None = None

    def openai(self, when: float, event: Mapping[str, Any]) -> None:
        for choice in event.get("choices") or ():
            text = (choice.get("delta") or {}).get("content") or choice.get("text")
            if text:
                self.parts.append((when, text))
            self.over = self.over or choice.get("finish_reason") is not None
        if usage := event.get("usage"):
            self.usage = usage.get("completion_tokens")

    def tgi(self, when: float, event: Mapping[str, Any]) -> None:
        if token := event.get("token"):
            self.parts.append((when, token.get("text") or ""))
        if event.get("generated_text") is not None:
            self.over, self.whole = True, event["generated_text"]
            self.usage = (event.get("details") or {}).get("generated_tokens")


def read(recording: Recording, api: Api, length: Callable[[str], int] | None = None) -> Trace:
    """Understand a recording.

    Args:
        length: tokens of a text, to count by instead of what the server says.
    """
    if recording.broken:
        return Trace(recording, recording.broken)
    try:
        status, body = _unwrap(recording.pieces)
    except h11.RemoteProtocolError as error:
        return Trace(recording, f"the connection broke: {error}")
    if status != 200:
        said = _message(b"".join(piece for _, piece in body))
        return Trace(recording, f"HTTP {status}: {said}", refused=status in REFUSED)
    answer = _Answer()
    for when, line in _lines(body):
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:") or data == b"[DONE]":
            continue
        try:
            event = json.loads(data)
            if "error" in event:
                answer.error = _message(data)
            elif api == "openai":
                answer.openai(when, event)
            else:
                answer.tgi(when, event)
        except (ValueError, TypeError, AttributeError):
            answer.error = f"not an event of this API: {data[:100].decode(errors='replace')}"
    problem = answer.error or (None if answer.over else "the stream ended early")
    if problem is None and not answer.parts:
        problem = "the answer is empty"
    if problem:
        return Trace(recording, problem)
    text = "".join(text for _, text in answer.parts) if answer.whole is None else answer.whole
    counted: Counted = "text" if length else "events" if answer.usage is None else "usage"
    tokens = length(text) if length else len(answer.parts) if answer.usage is None else answer.usage
    # TGI has an event for each token, whatever its text
    by_event = api == "tgi" or counted == "events"
    weights = [1 if by_event else len(text) for _, text in answer.parts]
    per_weight = tokens / sum(weights)
    return Trace(
        recording,
        deliveries=tuple((when, weight * per_weight) for (when, _), weight in zip(answer.parts, weights, strict=True)),
        tokens=tokens,
        counted=counted,
        text=text,
    )


def _unwrap(pieces: list[tuple[float, bytes]]) -> tuple[int, list[tuple[float, bytes]]]:
    """Status and body of an HTTP response, each part of the body with the time of the read that completed it.

    Raises:
        h11.RemoteProtocolError: it is not HTTP, or not a whole response.
    """
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method="POST", target="/", headers=[("host", "-"), ("connection", "close")]))
    http.send(h11.EndOfMessage())
    status = 0
    body: list[tuple[float, bytes]] = []
    # nothing more is the end of the connection, which h11 refuses in the middle of a response
    for when, piece in [*pieces, (0.0, b"")]:
        http.receive_data(piece)
        while (event := http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body.append((when, bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                return status, body
    return status, body


def _lines(pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Complete lines, each with the time of the read that completed it."""
    rest = b""
    for when, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from ((when, line.rstrip(b"\r")) for line in lines)
    if rest:
        yield pieces[-1][0], rest


def _message(said: bytes) -> str:
    """The message of an error body or event, in OpenAI's shape or TGI's."""
    try:
        error = json.loads(said)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, TypeError, KeyError):
        return said[:200].decode(errors="replace")
