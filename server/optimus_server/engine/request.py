"""What a client asked for, how far it has come, and the events it is told.

A request is an array of tokens with monotone lengths ``cached <= frontier <= end``:

    position   0 ............ cached ....... frontier ........ end
               KV is final    | committed,   | masks, and commits
                              | KV pending   | that wait for the frontier

Only :meth:`Request.apply` and :meth:`Request.restart` move them, and only where the engine runs.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Top = tuple[tuple[int, float], ...]
"""The most probable tokens of one position, best first: id and log-probability."""
Policy = Literal["block", "chunk", "refresh", "stale", "stream"]
Unmask = Literal["low_confidence_dynamic", "low_confidence_static", "sequential", "entropy_bounded"]
FinishReason = Literal["eos_token", "length", "stop_sequence", "cancelled"]

POLICIES: tuple[Policy, ...] = get_args(Policy)
UNMASK_RULES: tuple[Unmask, ...] = get_args(Unmask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """How one request is decoded; valid by construction of its maker, ``text.prompt``."""

    max_new_tokens: int
    stop_ids: frozenset[int] = frozenset()
    policy: Policy = "chunk"
    chunk: int | None = None
    """None leaves it to the controller, step by step."""
    tpot_s: float | None = None
    """Target for the time per output token, seconds; None is the server's."""
    unmask: Unmask = "low_confidence_dynamic"
    threshold: float = 0.9
    transfer: int = 1
    """Tokens a step commits at least (dynamic) or exactly (static, sequential), as far as masks are offered."""
    entropy_bound: float = 0.35
    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    typical_p: float = 1.0
    """1 is off, as for ``top_p``."""
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0
    top_n: int = 0
    """Alternatives to tell with every token."""

    @property
    def penalised(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)

    @property
    def foreseeable(self) -> bool:
        """Whether a step can be prepared before the one before is over: what it needs does not hang on its tokens."""
        return not self.penalised and (self.typical_p == 1 or self.temperature == 0)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one request has cost so far. Positions are counted once per step that computes them."""

    prompt_tokens: int
    generated_tokens: int
    prefix_hit_tokens: int
    steps: int
    """Steps after prefill, those among them that only wrote KV; generated tokens over steps is TPF."""
    computed_positions: int
    """Positions computed beyond the prompt; over generated tokens, the price of a token."""
    chunk: tuple[int, float, int]
    """Smallest, mean and largest chunk size of the steps that offered masks; zeros if there was none."""
    wasted_tokens: int
    """Committed but never sent: behind the end token or past ``max_new_tokens``."""
    queued_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Committed:
    """The frontier moved: the next tokens of the answer, in order, all of one step."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    step: int
    top: tuple[Top, ...] = ()
    """One for each id if the request asks for alternatives, else empty."""


@dataclass(frozen=True, slots=True)
class Finished:
    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine gave this request up; ``message`` may be shown to its client."""

    message: str
    usage: Usage


Event = Committed | Finished | Failed


@dataclass(slots=True)
class Commits:
    """What one row commits: positions, their tokens and the logarithm of their confidence, all ``[k]``. (Not frozen.)

    ``offered`` masks were looked at. ``valid`` is False if the outputs there were not numbers; then nothing in it means
    anything.
    """

    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    valid: bool
    offered: int
    top: tuple[Top, ...] = ()
    """The best tokens of each position if any request of the step asks for them, else empty."""

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        """(position, id, confidence), one by one."""
        confidence = np.exp(self.logprobs).round(4)
        return zip(self.positions.tolist(), self.ids.tolist(), confidence.tolist(), strict=True)


NOTHING = Commits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), valid=True, offered=0)
"""What a row commits that offers no masks."""


class Request:
    """One request's tokens and lengths.

    Attributes:
        tokens: int64 ``[canvas]``; what stands at a position that is not committed has no meaning.
        committed: bool ``[canvas]``; masks are state, so a mask id in a prompt is an ordinary token.
        canvas: ``prompt + max_new_tokens`` rounded up to whole blocks.
        cached: positions below have final KV.
        exact: positions below have KV that depends on their tokens alone (whole blocks computed clean); only
            these may be shared with other requests.
        drawn: KV, final or not, has been written below this position.
        known: the frontier when the request was last admitted; rows up to it are prefill.
        frontier: first position not committed.
        end: first position that is never sent.
        chunk: chunk size in force.
        elastic: whether the controller may choose it.
        in_flight: rows being computed whose results are not known.
        fresh: it has begun (again), and the device does not know.
        waited: its last row found no room in its step.
    """

    def __init__(self, request_id: str, ids: tuple[int, ...], params: Params, *, block_size: int, shift: int) -> None:
        assert ids
        assert params.max_new_tokens > 0
        assert params.chunk is None or params.chunk > 0
        if block_size == 1:
            # Autoregressive: nothing but the next token can be predicted, so all policies are the same one.
            params = replace(params, policy="chunk", chunk=1)
        self.id = request_id
        self.params = params
        self.block_size = block_size
        self.shift = shift
        self.chunk = params.chunk or 1
        self.elastic = params.chunk is None and params.policy != "block"
        self.prompt_len = len(ids)
        self.end = self.prompt_len + params.max_new_tokens
        self.canvas = math.ceil(self.end / block_size) * block_size
        self.tokens = np.zeros(self.canvas, dtype=np.int64)
        self.tokens[: self.prompt_len] = ids
        self.logprobs = np.zeros(self.canvas)
        self._top: dict[int, Top] = {}
        # One memory, seen twice: searching bytes for the next mask is much faster than asking an array.
        self._flags = bytearray(self.canvas)
        self.committed = np.frombuffer(self._flags, dtype=np.bool_)
        self.committed[: self.prompt_len] = True
        self.frontier = self.known = self.prompt_len
        self.cached = self.exact = self.drawn = 0
        self.prefix_hit = self.steps = self.computed = self.preemptions = 0
        self._chunks: dict[int, int] = {}
        self.created = time.perf_counter()
        self.admitted: float | None = None
        self.finished = self.waited = False
        self.in_flight, self.fresh = 0, True

    @property
    def prefilling(self) -> bool:
        """Whole blocks of known tokens lack KV. Their rows may be cut, and offer no masks."""
        return self.cached < (self.known - self.shift) // self.block_size * self.block_size

    def grant(self, chunk: int) -> None:
        """Take a chunk size from the controller.

        A row whose pending tokens alone fill its chunk would offer no mask, so it gets them all and one mask.
        """
        pending = self.frontier - max(self.cached, self.known - self.shift)
        self.chunk = max(chunk, pending + 1 - self.shift)

    def first_mask(self, begin: int) -> int:
        """The first position from ``begin`` on that is not committed."""
        found = self._flags.find(0, begin)
        return self.canvas if found < 0 else found

    def restart(self, prefix_hit: int) -> None:
        """Begin (again) with KV for ``prefix_hit`` positions only; committed tokens stay."""
        self.known = self.frontier
        assert prefix_hit <= self.known - self.shift
        self.cached = self.exact = self.drawn = prefix_hit
        self.fresh = True
        if self.admitted is None:
            # A later hit is on its own pages.
            self.prefix_hit = prefix_hit

    def apply(self, start: int, stop: int, commits: Commits) -> list[Event]:
        """Take one row's result: KV written for ``[start, stop)``, and what it commits.

        Returns the events of this step: at most one ``Committed``, then ``Finished`` if it was the last.
        """
        before = self.frontier
        final = min(stop, before)
        if len(positions := commits.positions):
            assert not np.count_nonzero(self.committed[positions])
            self.tokens[positions] = commits.ids
            self.logprobs[positions] = commits.logprobs
            if wanted := self.params.top_n:
                self._top |= {p: best[:wanted] for p, best in zip(positions.tolist(), commits.top, strict=True)}
            self.committed[positions] = True
            self.frontier = self.first_mask(before)
        self._settle(start, stop, final)
        self.steps += stop + self.shift > self.known
        self.computed += max(0, stop - max(start, self.prompt_len - self.shift))
        if commits.offered:
            size = self.block_size if self.params.policy == "block" else self.chunk
            self._chunks[size] = self._chunks.get(size, 0) + 1
        return self._events(before) if self.frontier > before else []

    def _settle(self, start: int, stop: int, final: int) -> None:
        """Move ``exact`` and ``cached`` after a row whose positions below ``final`` went in committed."""
        whole = final // self.block_size * self.block_size
        exact = max(self.exact, whole) if start <= self.exact else self.exact
        cached = exact if self.params.policy == "block" else max(exact, final)
        cached = max(self.cached, min(cached, self.frontier - self.shift))
        assert self.exact <= exact
        assert self.cached <= cached <= self.frontier <= self.canvas
        self.exact, self.cached, self.drawn = exact, cached, max(self.drawn, stop)

    def _events(self, before: int) -> list[Event]:
        sent = self.tokens[before : min(self.frontier, self.end)].tolist()
        stop = None
        if not self.params.stop_ids.isdisjoint(sent):
            stop = 1 + next(i for i, token in enumerate(sent) if token in self.params.stop_ids)
            sent = sent[:stop]
        events: list[Event] = []
        if sent:
            logprobs = self.logprobs[before : before + len(sent)].tolist()
            top = tuple(self._top.pop(before + i) for i in range(len(sent))) if self.params.top_n else ()
            events.append(Committed(tuple(sent), tuple(logprobs), self.steps, top))
        if stop is not None or self.frontier >= self.end:
            self.end = before + len(sent)
            reason: FinishReason = "eos_token" if stop is not None else "length"
            events.append(Finished(reason, self.usage()))
            self.finished = True
        return events

    def usage(self) -> Usage:
        now = time.perf_counter()
        sent = min(self.frontier, self.end)
        return Usage(
            prompt_tokens=self.prompt_len,
            generated_tokens=sent - self.prompt_len,
            prefix_hit_tokens=self.prefix_hit,
            steps=self.steps,
            computed_positions=self.computed,
            chunk=self._chunk_sizes(),
            wasted_tokens=int(self.committed[sent:].sum()),
            queued_s=(self.admitted or now) - self.created,
            decode_s=now - self.admitted if self.admitted else 0.0,
        )

    def _chunk_sizes(self) -> tuple[int, float, int]:
        mean = sum(size * count for size, count in self._chunks.items()) / max(1, sum(self._chunks.values()))
        return min(self._chunks, default=0), mean, max(self._chunks, default=0)
