"""What the engine tells about its work: one ``StepTrace`` a step, with the decision behind it.

The engine's thread publishes to a ``Feed``; logs, metrics and live views subscribe. A subscriber that does not keep up
loses the oldest traces and can see how many; it never makes the engine wait. Without subscribers nothing is built.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, get_args

Reason = Literal["hold", "load_up", "load_down", "learned", "slo", "manual", "idle"]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The chunk size of one step, why it is that, and what was expected of it.

    Attributes:
        chunk: chunk size of a typical row that decodes; 0 if no row does. Rows differ with their requests' yields:
        smallest, largest: the chunk sizes at both ends.
        reason: why the chunk size is what it is:

            hold        nothing speaks for another one
            load_up     more positions would be computed at once than when it was chosen, so it shrank
            load_down   fewer, so it grew
            learned     measured yields or step times moved the optimum
            slo         the best one would miss the target for time per output token
            manual      an operator or the requests themselves fixed it
            idle        no row decodes

        rows: requests that decode in this step.
        waiting: requests in the queue.
        kv_used: share of the KV pages in use, 0 to 1.
        positions: computed in this step, prompt included; if its rows were not known yet, those there is room for.
        prefill: positions of prompt among them.
        kv_tokens: KV tokens the step reads, over all rows.
        expected_commits: tokens that are expected to be committed.
        predicted_s: step time the latency model predicts, seconds.
    """

    chunk: int
    smallest: int
    largest: int
    reason: Reason
    rows: int
    waiting: int
    kv_used: float
    positions: int
    prefill: int
    kv_tokens: int
    expected_commits: float
    predicted_s: float


class Commits(Protocol):
    """(position, token id, confidence), one by one; written out only when somebody looks."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[int, int, float]]: ...


class RowTrace(NamedTuple):
    """One request's part of a step. (A tuple, since the engine makes one for every row of every step.)

    Attributes:
        step: the request's own count of steps after prefill; 0 in prefill.
        start, stop: positions computed.
        chunk: chunk size in force for this row.
        masks: masks offered.
        commits: (position, token id, confidence) of what was committed, ascending.
        frontier: first position not committed, afterwards.
        advance: by how much the frontier moved, not counting what lies behind the answer's end.
    """

    request_id: str
    step: int
    start: int
    stop: int
    chunk: int
    masks: int
    commits: Commits
    frontier: int
    advance: int


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step: its number since the start, when it began (seconds since 1970), how long it took, what it did."""

    number: int
    at: float
    observed_s: float
    decision: Decision
    rows: tuple[RowTrace, ...]

    @property
    def committed(self) -> int:
        return sum(len(row.commits) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is right now."""

    running: int
    waiting: int
    free_pages: int
    pages: int


@dataclass(slots=True, eq=False)
class Subscription:
    """A bounded mailbox of traces; ``wake`` is called on the engine's thread when it stops being empty."""

    traces: deque[StepTrace]
    wake: Callable[[], None] | None
    dropped: int = 0
    _awake: bool = field(default=False, repr=False)

    def drain(self) -> list[StepTrace]:
        """Everything since the last call, oldest first; from any one thread."""
        self._awake = False
        taken = []
        while self.traces:
            try:
                taken.append(self.traces.popleft())
            except IndexError:
                break
        return taken

    def _put(self, trace: StepTrace) -> None:
        if len(self.traces) == self.traces.maxlen:
            self.dropped += 1
        self.traces.append(trace)
        if self.wake and not self._awake:
            self._awake = True
            self.wake()


class Feed:
    """Hands every trace to every subscriber.

    Example:

        >>> traces = feed.subscribe(256)
        >>> for trace in traces.drain(): ...
        >>> feed.unsubscribe(traces)
    """

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether anybody listens; if not, no trace need be built."""
        return bool(self._subscriptions)

    def subscribe(self, size: int, wake: Callable[[], None] | None = None) -> Subscription:
        """Listen from now on, from any thread. Of more than ``size`` unread traces the oldest are dropped."""
        subscription = Subscription(deque(maxlen=size), wake)
        with self._lock:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(one for one in self._subscriptions if one is not subscription)

    def publish(self, trace: StepTrace) -> None:
        for subscription in self._subscriptions:
            subscription._put(trace)
