"""One streamed request to an OpenAI- or TGI-compatible server: what was sent, and when which bytes came back.

While a load runs the client only notes what came in and when; ``trace.read`` takes HTTP and events apart afterwards.
So hundreds of streams cost it little, and what it costs does not delay what it measures: a library that does that work
read by read keeps up with a tenth of the load. Each request has a connection of its own, as if each came from another
user; so its time begins with connecting.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import h11

from optimus_server.demo.evaluate import Question
from optimus_server.errors import SettingsError
from optimus_server.text.tokenizer import Tokenizer

Api = Literal["openai", "tgi"]
clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what they all have in common.

    Attributes:
        url: without ``/v1``.
        model: the name that OpenAI's routes want.
        extra: fields of the body, or of TGI's ``parameters``, that replace ours.
        tokenizer: renders chats for TGI's routes, which take whole prompts.
    """

    url: str
    api: Api
    model: str
    max_tokens: int
    extra: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None

    def body(self, question: Question) -> tuple[str, dict[str, Any]]:
        """The route and the JSON of a greedy, streaming request.

        Raises:
            SettingsError: a chat for TGI's routes without a tokenizer.
        """
        inputs = question.inputs
        if self.api == "tgi":
            if not isinstance(inputs, str):
                if self.tokenizer is None:
                    raise SettingsError("TGI's routes take whole prompts: a chat needs --tokenizer", param="tokenizer")
                _, inputs = self.tokenizer.encode_chat(inputs)
            parameters = {"max_new_tokens": self.max_tokens, "do_sample": False, "details": True}
            return "/generate_stream", {"inputs": inputs, "parameters": {**parameters, **self.extra}}
        common = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        if isinstance(inputs, str):
            return "/v1/completions", {"prompt": inputs, **common}
        return "/v1/chat/completions", {"messages": list(inputs), **common}


@dataclass(slots=True)
class Recording:
    """One request as it went; times are of ``clock``.

    Attributes:
        due: when the load wanted it to begin; ``sent`` is when it did.
        pieces: what came in each read of the socket.
        broken: why the connection failed, if it did.
    """

    question: Question
    due: float
    sent: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    broken: str | None = None


class Client:
    """Sends requests to one target.

    Args:
        key: sent as a bearer token.
        timeout_s: how long one request may take.

    Raises:
        SettingsError: the target's URL is not one of HTTP.
    """

    def __init__(self, target: Target, key: str | None, timeout_s: float) -> None:
        parts = urlsplit(target.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                f"--url must be http://HOST:PORT or https://HOST:PORT. Given: {target.url}", param="url"
            )
        self.target = target
        self._host, self._path = parts.hostname, parts.path
        self._port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._headers = [
            ("host", parts.netloc.rpartition("@")[2]),
            ("content-type", "application/json"),
            ("accept-encoding", "identity"),
            ("connection", "close"),
            *([("authorization", f"Bearer {key}")] if key else []),
        ]
        self._timeout_s = timeout_s

    async def send(self, question: Question, due: float) -> Recording:
        """Ask one question and read its answer to the end of the connection."""
        recording = Recording(question, due)
        request = self._request(question)
        recording.sent = clock()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                transport, reader = await asyncio.get_running_loop().create_connection(
                    lambda: _Reader(request, recording.pieces), self._host, self._port, ssl=self._tls
                )
                await reader.over
        except TimeoutError:
            recording.broken = f"no complete answer in {self._timeout_s:g} s"
        except OSError as error:
            recording.broken = str(error) or type(error).__name__
        finally:
            if transport:
                transport.abort()
        return recording

    def _request(self, question: Question) -> bytes:
        route, body = self.target.body(question)
        content = json.dumps(body).encode()
        http = h11.Connection(h11.CLIENT)
        length = ("content-length", str(len(content)))
        head = http.send(h11.Request(method="POST", target=self._path + route, headers=[*self._headers, length]))
        return (head or b"") + content


class _Reader(asyncio.Protocol):
    """Writes the request, then notes each read of the answer with its time."""

    def __init__(self, request: bytes, pieces: list[tuple[float, bytes]]) -> None:
        self._request, self._pieces = request, pieces
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._pieces.append((clock(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            if error:
                self.over.set_exception(error)
            else:
                self.over.set_result(None)
