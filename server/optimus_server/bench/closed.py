"""A closed loop on the engine itself: so many requests run at all times, each is replaced as soon as it ends.

The loop is found as if it had always run. At such a moment the requests lie anywhere in their answers, so the first
ones begin there: of all wanted answers laid end to end, at points at even distances, with what stands before them as
part of the prompt. Without that all prompts would be computed at once, and all requests would be in step for long.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from optimus_server.bench.asked import Asked, evenly, in_the_middle
from optimus_server.bench.compilations import compilations
from optimus_server.engine.engine import Engine
from optimus_server.engine.request import Committed, Event, Failed, Finished, Params, Policy, Request, Usage
from optimus_server.engine.runner import Runner
from optimus_server.text.tokenizer import Tokenizer

# The demo model answers 0.99 of its scored prompts and more; a decoder with any fault at all falls far below this.
RIGHT_ENOUGH = 0.9
# Where only open-ended tasks were asked for: at large chunks 0.9 of its stories are sound.
SOUND_ENOUGH = 0.8
# So many wait, and one more for so many that run, so that the batch stays full while the ends of some are told.
SPARE = 4
# A window that holds less than so many answers shows what was asked rather than how fast it was answered.
FEW = 8
# A kernel is compiled for a few kinds of shapes; a window that is opened more often than that tells of a fault.
WINDOWS = 50


@dataclass(frozen=True, slots=True)
class Window:
    """What is counted: steps of a full batch.

    Attributes:
        warm_up: steps before, which are not counted; all first prompts are computed in these.
        answers, seconds: that end in it and that it lasts, both at least;
        most: seconds after which it closes anyway, once a few answers have ended.
    """

    warm_up: int
    answers: int
    seconds: float
    most: float


@dataclass(frozen=True, slots=True)
class Round:
    """One window at one batch and chunk size.

    Attributes:
        tokens, seconds, steps: counted.
        host_share: of the time, that in which the device waited for the host.
        slowest_ms: the longest step that was counted.
        tpf, computed_per_token: tokens that a request commits in a step of its own, and what it computes for each.
        right, judged: of the answers that ended, those that can be scored; all if none can.
        enough: share of right answers below which the figures mean nothing.
    """

    tokens: int
    seconds: float
    steps: int
    host_share: float
    slowest_ms: float
    tpf: float
    computed_per_token: float
    right: int
    judged: int
    enough: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def step_ms(self) -> float:
        return 1e3 * self.seconds / self.steps

    @property
    def sound(self) -> bool:
        """Whether the answers are right enough. One wrong answer of a few proves nothing."""
        return self.right > 0 and self.right >= self.enough * self.judged - 1


@dataclass(frozen=True, slots=True)
class Spent:
    """What all requests so far have committed, in how many steps of theirs, and computed beyond their prompts."""

    tokens: int
    steps: int
    computed: int

    @classmethod
    def of(cls, usages: Sequence[Usage]) -> "Spent":
        return cls(
            sum(usage.generated_tokens for usage in usages),
            sum(usage.steps for usage in usages),
            sum(usage.computed_positions for usage in usages),
        )

    def __sub__(self, before: "Spent") -> "Spent":
        return Spent(self.tokens - before.tokens, self.steps - before.steps, self.computed - before.computed)


@dataclass(slots=True)
class _Loop:
    """What runs and what has ended."""

    engine: Engine
    params: Callable[[int], Params]
    asked: Sequence[Asked]
    coming: Iterator[Asked] = field(init=False)
    running: dict[str, tuple[Asked, Request, list[int]]] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    ended: list[tuple[Asked, list[int], Usage]] = field(default_factory=list)
    events: Sequence[tuple[str, Event]] = ()
    tokens: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        self.coming = cycle(self.asked)

    def add(self, one: Asked) -> None:
        config, name = self.engine.config, str(self.count)
        self.count += 1
        params = self.params(one.room(self.engine.capacity))
        request = Request(name, one.ids, params, block_size=config.block_size, shift=config.logit_shift)
        self.running[name] = (one, request, [])
        self.engine.add(request)

    def restart(self) -> None:
        """When the next answer has ended, ask from the first question on: so each window is asked the same ones."""
        ended = len(self.ended)
        while len(self.ended) == ended:
            self.step()
        waiting = [request.id for request in self.engine.scheduler.waiting]
        self.coming = cycle(self.asked)
        for name in waiting:
            self.engine.cancel(name)
            del self.running[name]
        for _ in waiting:
            self.add(next(self.coming))

    def step(self) -> int:
        """One step; returns the tokens that were committed in the one before.

        As in the server, what a step has led to is handled while the next one runs.
        """
        self.tokens = 0
        self.events = self.engine.step(self._handle)
        return self.tokens

    def _handle(self) -> None:
        for name, event in self.events:
            if name not in self.running:
                continue
            match event:
                case Committed(ids):
                    self.running[name][2].extend(ids)
                    self.begun.add(name)
                    self.tokens += len(ids)
                case Finished(_, usage):
                    one, _, said = self.running.pop(name)
                    self.ended.append((one, said, usage))
                    self.begun.add(name)
                    self.add(next(self.coming))
                case Failed(message):
                    raise RuntimeError(message)

    def spent(self) -> Spent:
        running = [request.usage() for _, request, _ in self.running.values()]
        return Spent.of([*running, *(usage for _, _, usage in self.ended)])

    def stop(self) -> None:
        """Cancel what still runs, and see that nothing is left in the engine."""
        for name in self.running:
            self.engine.cancel(name)
        while self.engine.busy:
            self.engine.step()
        self.engine.check()


def measure(
    engine: Engine,
    runner: Runner,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    window: Window,
    policy: Policy,
    chunk: int | None,
) -> Round:
    """Decode greedily as many requests at a time as the engine takes.

    What is asked comes round again if need be. Each answer that ends is judged; what runs when the window closes is
    cancelled. A window in which a kernel was compiled is opened anew.

    Raises:
        RuntimeError: a request failed, or kernels are compiled again and again.
    """
    stop_ids = engine.config.eos_token_ids

    def params(room: int) -> Params:
        return Params(max_new_tokens=room, stop_ids=stop_ids, policy=policy, chunk=chunk)

    asked = evenly(asked)
    loop = _Loop(engine, params, asked)
    for one in in_the_middle(asked, engine.options.max_rows):
        loop.add(one)
    first = set(loop.running)
    for _ in range(max(SPARE, engine.options.max_rows // SPARE)):
        loop.add(next(loop.coming))
    steps = 0
    while steps < window.warm_up or not first <= loop.begun:
        loop.step()
        steps += 1
    with compilations() as compiled:
        for _ in range(WINDOWS):
            loop.restart()
            compiled.clear()
            if counted := _count(loop, runner, tokenizer, window, compiled):
                break
        else:
            raise RuntimeError(f"kernels were compiled in each of {WINDOWS} windows, {compiled[0]} in the last")
    loop.stop()
    return counted


def _count(loop: _Loop, runner: Runner, tokenizer: Tokenizer, window: Window, compiled: list[str]) -> Round | None:
    """One window; None if a kernel was compiled in it."""
    before, spent, tokens, steps, slowest = len(loop.ended), loop.spent(), 0, 0, 0.0
    busy, began = runner.busy_s, time.perf_counter()
    now = began
    while now < began + window.most or len(loop.ended) - before < min(FEW, window.answers):
        if now >= began + window.seconds and len(loop.ended) - before >= window.answers:
            break
        tokens += loop.step()
        steps += 1
        now, last = time.perf_counter(), now
        slowest = max(slowest, now - last)
        if compiled:
            return None
    busy, spent = runner.busy_s - busy, loop.spent() - spent
    verdicts, scored = _judge(loop.ended, tokenizer, loop.engine.config.eos_token_ids)
    return Round(
        tokens=tokens,
        seconds=now - began,
        steps=steps,
        # Steps are counted when they are over, so a window's last one may be longer than what the window has of it.
        host_share=max(0.0, 1 - busy / (now - began)),
        slowest_ms=1e3 * slowest,
        tpf=spent.tokens / max(1, spent.steps),
        computed_per_token=spent.computed / max(1, spent.tokens),
        right=sum(verdicts),
        judged=len(verdicts),
        enough=RIGHT_ENOUGH if scored else SOUND_ENOUGH,
    )


def _judge(
    ended: Sequence[tuple[Asked, list[int], Usage]], tokenizer: Tokenizer, stop_ids: Collection[int]
) -> tuple[list[bool], bool]:
    """Whether each of those that can be scored is right, or each of all if none can; and which it was."""
    scored = any(one.question.scored for one, _, _ in ended)
    verdicts = [
        one.question.accepts(tokenizer.decode([i for i in (*one.answer[: one.told], *said) if i not in stop_ids]))
        for one, said, _ in ended
        if one.question.scored or not scored
    ]
    return verdicts, scored
