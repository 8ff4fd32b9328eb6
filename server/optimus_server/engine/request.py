"""What a client asked for, how far it has come, and the events it is told.

A request is an array of tokens with monotone lengths ``cached <= frontier <= end``:

    position   0 ............ cached ....... frontier ........ end
               KV is final    | committed,   | masks, and commits
                              | KV pending   | that wait for the frontier

Only :meth:`Request.apply` and :meth:`Request.restart` move them, and only where the engine runs.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

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
    chunk: int = 16
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
    seed: int = 0


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


@dataclass(frozen=True, slots=True)
class Row:
    """One request's contiguous range ``[start, stop)`` in one step.

    Attributes:
        visible: its queries see keys below this position (and not beyond their own block); equal to ``stop``
            unless masks to the right were left visible by an earlier row (policy ``stale``).
    """

    request: "Request"
    start: int
    stop: int
    visible: int

    @property
    def width(self) -> int:
        return self.stop - self.start

    def candidates(self) -> NDArray[np.int64]:
        """Masked positions this row predicts, ascending; the output at ``p - shift`` predicts ``p``.

        With shift, the first position of a block is predicted by the last one of the block before it, which
        says something only once that block is known:

            B = 4, frontier 8, row [7, 10), shift 1 -> 8 9 10      (7 is known, so 8 may be offered)
            B = 4, frontier 6, row [5, 8),  shift 1 -> 6 7         (8 hangs on the mask at 7)
        """
        request = self.request
        first = max(self.start + request.shift, request.frontier)
        last = min(self.stop + request.shift, request.canvas)
        masked = first + np.flatnonzero(~request.committed[first:last])
        if request.shift:
            masked = masked[(masked % request.block_size != 0) | (masked == request.frontier)]
        return masked


@dataclass(frozen=True, slots=True)
class Step:
    """One forward of the engine: its rows and, row by row, the page tables that hold their KV."""

    rows: tuple[Row, ...]
    tables: tuple[list[int], ...]


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
    """

    def __init__(self, request_id: str, ids: tuple[int, ...], params: Params, *, block_size: int, shift: int) -> None:
        assert ids
        assert params.max_new_tokens > 0
        assert params.chunk > 0
        if block_size == 1:
            # Autoregressive: nothing but the next token can be predicted, so all policies are the same one.
            params = replace(params, policy="chunk", chunk=1)
        self.id = request_id
        self.params = params
        self.block_size = block_size
        self.shift = shift
        self.prompt_len = len(ids)
        self.end = self.prompt_len + params.max_new_tokens
        self.canvas = math.ceil(self.end / block_size) * block_size
        self.tokens = np.zeros(self.canvas, dtype=np.int64)
        self.tokens[: self.prompt_len] = ids
        self.logprobs = np.zeros(self.canvas)
        self.committed = np.zeros(self.canvas, dtype=bool)
        self.committed[: self.prompt_len] = True
        self.frontier = self.known = self.prompt_len
        self.cached = self.exact = self.drawn = 0
        self.prefix_hit = 0
        self.steps = 0
        self.computed = 0
        self.preemptions = 0
        self.created = time.perf_counter()
        self.admitted: float | None = None
        self.finished = False

    @property
    def prefilling(self) -> bool:
        """Whole blocks of known tokens lack KV. Their rows may be cut, and offer no masks."""
        return self.cached < (self.known - self.shift) // self.block_size * self.block_size

    def restart(self, prefix_hit: int) -> None:
        """Begin (again) with KV for ``prefix_hit`` positions only; committed tokens stay."""
        self.known = self.frontier
        assert prefix_hit <= self.known - self.shift
        self.cached = self.exact = self.drawn = prefix_hit
        if self.admitted is None:
            # A later hit is on its own pages.
            self.prefix_hit = prefix_hit

    def apply(
        self, row: Row, positions: NDArray[np.int64], ids: NDArray[np.int64], logprobs: NDArray[np.float64]
    ) -> list[Event]:
        """Take one row's result: KV written for ``[start, stop)``, tokens committed at ``positions``.

        Returns the events of this step: at most one ``Committed``, then ``Finished`` if it was the last.
        """
        before = self.frontier
        final = min(row.stop, before)
        self.tokens[positions] = ids
        self.logprobs[positions] = logprobs
        assert not self.committed[positions].any()
        self.committed[positions] = True
        rest = self.committed[before:]
        self.frontier = before + (len(rest) if rest.all() else int(rest.argmin()))
        self._settle(row, final)
        self.steps += row.stop + self.shift > self.known
        self.computed += max(0, row.stop - max(row.start, self.prompt_len - self.shift))
        return self._events(before)

    def _settle(self, row: Row, final: int) -> None:
        """Move ``exact`` and ``cached`` after a row whose positions below ``final`` went in committed."""
        whole = final // self.block_size * self.block_size
        exact = max(self.exact, whole) if row.start <= self.exact else self.exact
        cached = exact if self.params.policy == "block" else max(exact, final)
        cached = max(self.cached, min(cached, self.frontier - self.shift))
        assert self.exact <= exact
        assert self.cached <= cached <= self.frontier <= self.canvas
        self.exact, self.cached, self.drawn = exact, cached, max(self.drawn, row.stop)

    def _events(self, before: int) -> list[Event]:
        sent = self.tokens[before : min(self.frontier, self.end)]
        stop = next((i + 1 for i, token in enumerate(sent.tolist()) if token in self.params.stop_ids), None)
        sent = sent[:stop]
        events: list[Event] = []
        if len(sent):
            logprobs = self.logprobs[before : before + len(sent)]
            events.append(Committed(tuple(sent.tolist()), tuple(logprobs.tolist()), self.steps))
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
            wasted_tokens=int(self.committed[sent:].sum()),
            queued_s=(self.admitted or now) - self.created,
            decode_s=now - self.admitted if self.admitted else 0.0,
        )
