"""What the web tests share: a small tokenizer, an engine that plays a script, and a server on a real socket."""

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from tokenizers import Tokenizer as Plain, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from optimus_server.api.exchange import Facts
from optimus_server.app import create_app
from optimus_server.backend import Backend
from optimus_server.engine.request import Commits, Committed, Finished, Request, Usage
from optimus_server.engine.telemetry import Decision, Feed, Load, RowTrace, StepTrace
from optimus_server.errors import InvalidRequest
from optimus_server.serve import configuration
from optimus_server.settings import Settings
from optimus_server.text.ask import Rules
from optimus_server.text.prompt import Prompter
from optimus_server.text.tokenizer import Tokenizer
from optimus_server.thread import EngineThread
from tests.tiny import edit_json, tiny_checkpoint

SPECIALS = ["<|pad|>", "<|mask|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
PAD, MASK, SYSTEM, USER, ASSISTANT, END = range(6)
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
BLOCK = 8


def small_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens with a chat template, like the demo model's."""
    backend = Plain(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = "hello world, the quick brown fox jumps over the lazy dog. 你好 🙂 naïve "
    backend.train_from_iterator([text * 5], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>", chat_template=TEMPLATE
    )


def small_model(path: Path) -> Path:
    """A tiny random checkpoint with that tokenizer, which ``optimus serve`` can load."""
    hf = small_tokenizer()
    tiny_checkpoint(
        path, "sdar_shift", block_size=BLOCK, vocab_size=len(hf), eos_token_id=END, max_position_embeddings=1024
    )
    edit_json(path / "config.json", mask_token_id=MASK)
    hf.save_pretrained(path)
    return path


Steps = list[tuple[int, ...]]


class ScriptedEngine:
    """Commits what ``answer`` says, one tuple of ids a step, for all requests at once.

    Args:
        answer: request -> its steps; the last one ends it, with ``eos_token`` if it ends in END.
        step_s: how long a step takes.
        capacity: requests with a longer canvas are refused by ``add``.
    """

    def __init__(self, answer: Callable[[Request], Steps], *, step_s: float = 0.0, capacity: int = 10**6) -> None:
        self.answer, self.step_s, self.capacity = answer, step_s, capacity
        self.logprob: Callable[[Request], float] = lambda request: -0.5
        self.live: dict[str, tuple[Request, Steps]] = {}
        self.seen: list[Request] = []
        self.ended: list[tuple[str, str]] = []
        self.explode = False
        self.feed = Feed()
        self.steps = 0
        self.steered: list[tuple[int | None, float | None]] = []
        self._events: list[Any] = []

    def steer(self, *, chunk: int | None, tpot_s: float | None) -> None:
        self.steered.append((chunk, tpot_s))

    def add(self, request: Request) -> None:
        if request.canvas > self.capacity:
            raise InvalidRequest("too long for this engine")
        self.seen.append(request)
        self.live[request.id] = (request, list(self.answer(request)))

    def cancel(self, request_id: str) -> None:
        if request_id in self.live:
            self._end(request_id, "cancelled")

    @property
    def busy(self) -> bool:
        return bool(self.live or self._events)

    def step(self, meanwhile: Callable[[], None]) -> list[Any]:
        meanwhile()
        if self.step_s and self.live:
            time.sleep(self.step_s)
        if self.explode:
            raise RuntimeError("script says so")
        began, rows = time.time(), []
        for request_id, (request, steps) in list(self.live.items()):
            ids = steps.pop(0)
            request.frontier += len(ids)
            request.steps += 1
            best = tuple((i, -0.5 - i) for i in range(6, 6 + request.params.top_n))
            top = (best,) * len(ids) if best else ()
            self._events.append((request_id, Committed(ids, (self.logprob(request),) * len(ids), request.steps, top)))
            rows.append(scripted_row(request, ids))
            if not steps:
                self._end(request_id, "eos_token" if ids[-1] == END else "length")
        if rows and self.feed.active:
            self.steps += 1
            decision = Decision(
                chunk=3, smallest=2, largest=4, reason="manual", rows=len(rows), waiting=0, kv_used=0.25,
                positions=3 * len(rows), prefill=0, kv_tokens=9, expected_commits=2.5, predicted_s=0.001,
            )  # fmt: skip
            self.feed.publish(StepTrace(self.steps, began, time.time() - began, decision, tuple(rows)))
        events, self._events = self._events, []
        return events

    def load(self) -> Load:
        return Load(len(self.live), 0, 0, 0)

    def _end(self, request_id: str, reason: Any) -> None:
        request, _ = self.live.pop(request_id)
        self.ended.append((request_id, reason))
        generated = request.frontier - request.prompt_len
        usage = Usage(request.prompt_len, generated, 0, request.steps, generated, (1, 1.0, 1), 0, 0.001, 0.002)
        self._events.append((request_id, Finished(reason, usage)))


def scripted_row(request: Request, ids: tuple[int, ...]) -> RowTrace:
    start = request.frontier - len(ids)
    positions = np.arange(start, request.frontier)
    commits = Commits(positions, np.array(ids), np.full(len(ids), math.log(0.75)), valid=True, offered=3)
    return RowTrace(
        request_id=request.id, step=request.steps, start=start, stop=start + 3, chunk=3, masks=3, commits=commits,
        frontier=request.frontier, advance=len(ids),
    )  # fmt: skip


def spoken(tokenizer: Tokenizer, text: str, per_step: int = 3, end: bool = True) -> Steps:
    """The script that says ``text``."""
    ids = [*tokenizer.encode(text), *([END] if end else [])]
    return [tuple(ids[i : i + per_step]) for i in range(0, len(ids), per_step)]


class Live:
    """A running server: its URL, its application, its engine and its service, and requests to it."""

    def __init__(self, url: str, engine: Any, app: Any) -> None:
        self.url, self.engine, self.app, self.service = url, engine, app, app.state.desk.service

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=30, **options)

    def events(self, path: str, body: Any, **options: Any) -> list[Any]:
        """The payloads of a stream, in order; ``[DONE]`` stays text."""
        response = self.post(path, body, **options)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return payloads(response.text)


def payloads(text: str) -> list[Any]:
    lines = [line for line in text.split("\n") if line and not line.startswith(":")]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


@contextlib.contextmanager
def listening(app: Any, engine: Any) -> Iterator[Live]:
    """Serve an application on a free port, in a thread of this process."""
    server = uvicorn.Server(configuration(app, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started, 10)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Live(f"http://127.0.0.1:{port}", engine, app)
    finally:
        server.should_exit = True
        thread.join()


def rules(**changes: Any) -> Rules:
    fields: dict[str, Any] = {
        "block_size": BLOCK, "vocab_size": 320, "max_input_tokens": 200, "max_total_tokens": 256,
        "stop_ids": frozenset({END}),
    }  # fmt: skip
    return Rules(**fields | changes)


def application(
    engine: Any, tokenizer: Tokenizer, *, rule: dict[str, Any] | None = None, recorder: Any = None, **settings: Any
) -> Any:
    return served(backend(engine, tokenizer, **rule or {}), recorder, **settings)


def backend(engine: Any, tokenizer: Tokenizer, **rule: Any) -> Backend:
    facts = Facts("org/scripted", "sdar_shift", "float32", "cpu", MASK, "cpu+optimized", 4096, ladder=(1, 2, 4, 8, 16))
    return Backend(EngineThread(engine), Prompter(tokenizer, rules(**rule)), facts, 1)


def served(backend: Backend, recorder: Any, **settings: Any) -> Any:
    # Most tests ask nothing of the playground, and it takes seconds to import.
    return create_app(Settings(**{"no_playground": True} | settings), backend, recorder)


def wait_for(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Wait until a condition holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
