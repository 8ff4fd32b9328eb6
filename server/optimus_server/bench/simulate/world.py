"""A simulated world: the real engine on a ``Machine``, its requests, and what became of them."""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optimus_server.bench.simulate.machine import Machine
from optimus_server.bench.simulate.recording import Recording
from optimus_server.engine.elastic.latency import Profile
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Committed, Finished, Params, Policy, Request
from optimus_server.errors import SettingsError

PAGE = 64
# One more waits for so many that run, one step ahead.
SPARE = 4


def load_profile(path: Path) -> Profile:
    """A latency table: a profile as `optimus profile` writes it. Raises SettingsError if it is none."""
    try:
        return Profile.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is not a latency profile: {error}", param="profile") from None


@dataclass(frozen=True, slots=True)
class Scheme:
    """How requests are decoded: a policy with a chunk size, or the controller's choice (None)."""

    name: str
    policy: Policy = "chunk"
    chunk: int | None = None
    ragged: bool = True

    @classmethod
    def elastic(cls, *, ragged: bool = True) -> "Scheme":
        return cls("elastic" if ragged else "uniform", ragged=ragged)

    @classmethod
    def fixed(cls, chunk: int) -> "Scheme":
        return cls(f"chunk {chunk}", chunk=chunk)

    @classmethod
    def block(cls, size: int) -> "Scheme":
        return cls(f"block {size}", "block", size)


# Autoregressive decoding by a model of the same size: what chunk 1 of a shifted model is.
AR = Scheme("AR", chunk=1)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a workload: when it comes, its lengths in tokens, and whose recording it replays."""

    at: float
    prompt: int
    answer: int
    source: int
    shared: bool = False
    """Its prompt is the same as everybody's, so only the first has to compute it."""


@dataclass(slots=True)
class Life:
    """What became of one request, in seconds of the simulation; None while it has not come to that."""

    arrival: Arrival
    first: float | None = None
    last: float | None = None
    tokens: int = 0

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first step's."""
        assert self.first is not None
        assert self.last is not None
        return (self.last - self.first) / max(1, self.arrival.answer - 1)


@dataclass(slots=True)
class StepLog:
    """One step: when it ended, what it computed and committed, what the controller chose and why."""

    end: float
    seconds: float
    rows: int
    positions: int
    tokens: int
    chunk: int
    reason: str
    predicted_s: float


@dataclass(slots=True)
class Run:
    """All that a simulation saw."""

    lives: list[Life] = field(default_factory=list)
    steps: list[StepLog] = field(default_factory=list)

    def throughput(self, skip: int) -> float:
        """Tokens a second, without the first ``skip`` steps."""
        steps = self.steps[skip:]
        return sum(step.tokens for step in steps) / sum(step.seconds for step in steps)


class Continued(Request):
    """A request of which the whole prompt is cached as soon as its whole blocks are: what is left is decoding."""

    def restart(self, prefix_hit: int) -> None:
        super().restart(prefix_hit)
        if prefix_hit and self.params.policy == "chunk":
            self.cached = self.drawn = self.known - self.shift


class World:
    """An engine on a ``Machine``, and what it was seen to do.

    Args:
        profile: what the controller believes about step times; the machine's own table by default.
        max_rows: requests that run at once.
        ahead: whether a step is launched while the one before is under way, as on a GPU.
    """

    def __init__(
        self,
        recording: Recording,
        table: Profile,
        scheme: Scheme,
        *,
        profile: Profile | None = None,
        max_rows: int = 512,
        kv_tokens: int = 1 << 21,
        prefill_budget: int = 2048,
        tpot_s: float | None = None,
        noise: float = 0.02,
        ahead: bool = False,
        seed: int = 0,
    ) -> None:
        block_size, shift = (1, 1) if scheme is AR else (recording.block_size, recording.shift)
        self.scheme, self.machine = scheme, Machine(
            recording, table, block_size=block_size, shift=shift, noise=noise, ahead=ahead, seed=seed
        )  # fmt: skip
        self.run = Run()
        options = EngineOptions(
            pages=kv_tokens // PAGE,
            page_size=PAGE,
            max_rows=max_rows,
            prefill_budget=prefill_budget,
            profile=profile or table,
            tpot_s=tpot_s,
            ragged=scheme.ragged,
        )
        self.engine = Engine(self.machine, options, clock=lambda: self.machine.now)
        self._lives: dict[str, Life] = {}
        self._gone: set[str] = set()

    def add(self, arrival: Arrival) -> None:
        """A request enters now."""
        name = f"{len(self.run.lives)}/{arrival.source}"
        prompt = np.zeros(arrival.prompt, int) if arrival.shared else np.arange(arrival.prompt) + len(self.run.lives)
        params = Params(max_new_tokens=arrival.answer, policy=self.scheme.policy, chunk=self.scheme.chunk)
        config = self.machine.config
        kind = Continued if arrival.shared else Request
        request = kind(name, tuple(prompt.tolist()), params, block_size=config.block_size, shift=config.logit_shift)
        self.engine.add(request)
        life = self._lives[name] = Life(arrival)
        self.run.lives.append(life)

    def step(self) -> int:
        """One step; returns how many requests ended with it."""
        ended = tokens = 0
        before = self.machine.now
        for name, event in self.engine.step():
            if name in self._gone:
                continue
            life = self._lives[name]
            match event:
                case Committed(ids):
                    life.first = life.first or self.machine.now
                    life.last, life.tokens = self.machine.now, life.tokens + len(ids)
                    tokens += len(ids)
                case Finished():
                    ended += 1
                    del self._lives[name]
        while self.machine.decisions:
            decision = self.machine.decisions.pop()
            log = StepLog(
                end=self.machine.now,
                seconds=self.machine.now - before,
                rows=decision.rows,
                positions=decision.positions,
                tokens=tokens,
                chunk=decision.chunk,
                reason=decision.reason,
                predicted_s=decision.predicted_s,
            )
            self.run.steps.append(log)
        return ended

    def leave(self, count: int) -> None:
        """So many requests end now, if any: their clients are gone. They say nothing about times any more."""
        for name in list(self._lives)[: max(0, count)]:
            self.engine.cancel(name)
            del self._lives[name]
            self._gone.add(name)

    def closed(self, concurrency: int, steps: int, draw: Callable[[], Arrival]) -> Run:
        """A constant load: ``concurrency`` requests at all times, each followed by the next, for ``steps`` steps.

        One step ahead, an end is told when the step after has begun; more that wait keep the batch full.
        """
        lives = concurrency + self.machine.ahead * max(2, concurrency // SPARE)
        for _ in range(steps):
            while len(self._lives) < lives:
                self.add(draw())
            self.step()
        return self.run

    def open(self, arrivals: Iterable[Arrival], *, most_waiting: float = math.inf) -> Run:
        """Requests that come when they come; runs until all are answered, or too many wait."""
        waiting = list(arrivals)[::-1]
        while (waiting or self._lives) and self.engine.load().waiting <= most_waiting:
            if not self._lives:
                self.machine.now = max(self.machine.now, waiting[-1].at)
            while waiting and waiting[-1].at <= self.machine.now:
                self.add(waiting.pop())
            self.step()
        return self.run
