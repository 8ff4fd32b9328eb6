"""The choice of chunk sizes, once a step: the most commits per second that are to be had.

    maximize    mean of log E_i(c_i) - log T(n, k)    E_i commits of row i, n positions and k KV tokens of the step
    subject to  T(n, k) / E <= TPOT                   for requests that have a target

Logarithms, because a row that commits faster leaves earlier and another takes its place: what counts is by which factor
each is sped up. (Maximizing the sum of E instead favors easy requests, and fills the batch with hard ones.)

All rows pay the same *price* per computed position; each takes the chunk size that is best for it at that price,
``max log E(c) - price * n(c)``. So a request whose tokens come easily gets a large chunk in the same step in which
another gets a small one, and one number remains to be chosen: at price 0 everybody takes the largest chunk, at price 1
the smallest. A *level* is one such price.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.elastic.latency import LatencyModel
from optimus_server.engine.elastic.yields import P, YieldModel
from optimus_server.engine.request import Policy, Request
from optimus_server.engine.step import Step
from optimus_server.engine.telemetry import Reason

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PRICES: Floats = np.concatenate([[0.0], np.geomspace(0.003, 1.0, 24)])

# A level is left for one that is better by this share, and by this larger one within DWELL steps of the last change.
BETTER, MUCH_BETTER, DWELL = 0.01, 0.08, 100
# A batch that computes this share more or less than when the level was chosen is another load.
OTHER_LOAD = 0.1
# One block in so many is decoded at a chunk size that is not its request's best, but would be if it committed this
# share more than is known; as long as little is known of it: less than these tokens. Then one in SELDOM of those is.
EXPLORE, HOPE, ENOUGH, SELDOM = 16, 0.25, 400.0, 8
# How fast the ratio of prompt positions to committed tokens follows what happens, per step.
FOLLOW = 0.02
# Chunk tables follow what the yield model learns every so many steps.
REFRESH = 32


@dataclass(frozen=True, slots=True)
class Situation:
    """What a step has to do.

    Attributes:
        rows: requests that decode and leave their chunk size to the controller.
        joining: requests of that kind that end their prompt in this step.
        fixed: positions of rows whose chunk size is fixed.
        fixed_rows: how many those are.
        prefill: positions of prompt that wait to be computed.
        kv_tokens: KV tokens that all these rows read.
    """

    rows: Sequence[Request]
    joining: int
    fixed: int
    fixed_rows: int
    prefill: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Chunk sizes for the rows of a situation, in their order, and the prompt positions that may join them."""

    chunks: tuple[int, ...]
    typical: int
    reason: Reason
    prefill: int
    expected_commits: float


class Menu:
    """What every level offers under one policy.

    Attributes:
        chunk: ``[levels, P]``, index of the rung that a request takes.
        commits, computed: ``[levels, P]``, per step.
        promising: ``[levels, P, rungs]``, whether a rung would be better if it did better than is known.
    """

    def __init__(self, yields: YieldModel, policy: Policy, *, ragged: bool) -> None:
        commits, computed = yields.table(policy)
        worth = np.log(commits) - PRICES[:, None, None] * computed
        if ragged:
            # Of equals the larger chunk: at price 0 nothing but commits counts.
            self.chunk = worth.shape[2] - 1 - worth[:, :, ::-1].argmax(2)
        else:
            sizes = np.arange(len(yields.rungs))[::-1]
            self.chunk = np.repeat(sizes[:, None], commits.shape[0], axis=1)
            worth = worth[np.linspace(0, len(PRICES) - 1, len(sizes)).astype(int)]
        column = np.arange(commits.shape[0])
        self.commits = commits[column, self.chunk]
        self.computed = computed[column, self.chunk]
        best = np.take_along_axis(worth, self.chunk[:, :, None], 2)
        self.promising = worth + np.log1p(HOPE) > best


class Controller:
    """Chooses; see the module.

    Args:
        prefill_budget: most positions of prompt a step may compute; at least one block is always granted.
        tpot_s: target for the time per output token of requests that have none of their own; None is no target.
        ragged: whether requests differ in chunk size; False is one for all, for comparison.

    Attributes:
        pinned: a chunk size for all requests that leave it open, set by an operator; None to choose.
    """

    def __init__(
        self,
        latency: LatencyModel,
        yields: YieldModel,
        *,
        block_size: int,
        prefill_budget: int,
        tpot_s: float | None = None,
        ragged: bool = True,
    ) -> None:
        self.latency, self.yields = latency, yields
        self.block_size, self.prefill_budget = block_size, prefill_budget
        self.tpot_s = tpot_s
        self.pinned: int | None = None
        self.changes = 0
        self._ragged = ragged
        self._menus: dict[Policy, Menu] = {}
        self._age = 0
        self._level = 0
        self._since = DWELL
        self._load = 0.0
        self._policy: Policy = "chunk"
        self._exploring: set[str] = set()
        # Prompt positions and committed tokens, lately: what a token costs in prompt.
        self._prompt, self._tokens = 0.0, 1.0

    def opening(self, policy: Policy) -> int:
        """Chunk size of a request that joins, of which nothing is known."""
        return self.pinned or self.yields.rungs[int(self._menu(policy).chunk[self._level, self.yields.typical])]

    def choose(self, situation: Situation) -> Choice:
        """Chunk sizes for the next step."""
        rows = situation.rows
        self._exploring = set()
        if self.pinned is not None:
            chunks = (self.pinned,) * len(rows)
            commits = float(len(rows) + situation.fixed_rows)
            return Choice(chunks, self.pinned, "manual", self.prefill_budget, commits)
        if not rows and not situation.joining:
            reason: Reason = "manual" if situation.fixed_rows else "idle"
            return Choice((), 0, reason, self.prefill_budget, float(situation.fixed_rows))

        self._age += 1
        if self._age % REFRESH == 1:
            self._menus = {policy: Menu(self.yields, policy, ragged=self._ragged) for policy in self._menus}
        slots = np.array([self.yields.slot(row.id) for row in rows], dtype=np.int64)
        shares = self._shares(rows, slots, situation.joining)
        count = len(rows) + situation.joining
        menus = [(self._menu(policy), share) for policy, (_, _, share) in shares.items()]
        commits = np.sum([menu.commits @ share for menu, share in menus], axis=0)
        computed = np.sum([menu.computed @ share for menu, share in menus], axis=0)
        speed = np.exp(np.sum([np.log(menu.commits) @ share for menu, share in menus], axis=0) / count)
        # Who commits more finishes sooner, and makes room for the next prompt.
        load = computed + situation.fixed + commits * self._prompt / max(self._tokens, 1e-3)
        seconds = self.latency.predict_many(load, situation.kv_tokens)
        reason = self._move(speed / seconds, self._missed(rows, seconds / speed), load)
        chosen, levels = np.zeros((2, len(rows)), dtype=np.int64)
        for policy, (places, found, _) in shares.items():
            chosen[places], levels[places] = self._menu(policy).chunk[self._level, found], found
        chosen = self._explore(rows, slots, levels, chosen)
        return Choice(
            tuple(self.yields.rungs[rung] for rung in chosen.tolist()),
            self.opening(self._policy),
            reason,
            self._prefill(situation, float(computed[self._level]), float(speed[self._level])),
            float(commits[self._level]) + situation.fixed_rows,
        )

    def learn(self, step: Step, before: Sequence[int], seconds: float) -> None:
        """Take a step's result: how long it took, and how far each frontier came from where it was ``before``."""
        decision = step.decision
        self.latency.observe(decision.positions, decision.kv_tokens, seconds)
        policies: dict[Policy, list[tuple[int, int, int, int, int, bool]]] = {}
        tokens = 0
        for row, frontier in zip(step.rows, before, strict=True):
            request = row.request
            masks = row.stop + request.shift - frontier
            if masks > 0 and request.params.policy != "block":
                advance = min(request.frontier, request.end) - frontier
                tokens += advance
                seen = (
                    self.yields.slot(request.id), masks, advance, row.width, request.chunk,
                    request.id in self._exploring,
                )  # fmt: skip
                policies.setdefault(request.params.policy, []).append(seen)
        for policy, rows in policies.items():
            slots, masks, advances, widths, chunks, exploring = np.array(rows).T
            self.yields.observe(slots, masks, advances, widths, chunks, exploring > 0, policy)
        self._prompt += FOLLOW * (decision.prefill - self._prompt)
        self._tokens += FOLLOW * (tokens - self._tokens)

    def forget(self, request_id: str) -> None:
        self.yields.close(request_id)

    def _explore(self, rows: Sequence[Request], slots: Ints, levels: Ints, chosen: Ints) -> Ints:
        """Rungs for the rows, some of them, for the length of a block, at one that is worth a try."""
        blocks = np.array([row.frontier for row in rows], dtype=np.int64) // self.block_size + slots
        chosen = chosen.copy()
        for place in np.flatnonzero(blocks % EXPLORE == 0).tolist():
            row, number = rows[place], int(blocks[place]) // EXPLORE
            promising = self._menu(row.params.policy).promising[self._level, levels[place]]
            known = self.yields.explored > ENOUGH
            open_ = np.flatnonzero(promising & ~known if number % SELDOM else promising)
            if len(open_) and (rung := int(open_[number % len(open_)])) != chosen[place]:
                chosen[place] = rung
                self._exploring.add(row.id)
        return chosen

    def _menu(self, policy: Policy) -> Menu:
        if policy not in self._menus:
            self._menus[policy] = Menu(self.yields, policy, ragged=self._ragged)
        return self._menus[policy]

    def _shares(self, rows: Sequence[Request], slots: Ints, joining: int) -> dict[Policy, tuple[Ints, Ints, Floats]]:
        """By policy: places in ``rows``, continuation levels, and how many rows have each of the levels.

        Those that join are taken for average ones of the policy most rows have.
        """
        levels = self.yields.levels(slots)
        policies: dict[Policy, list[int]] = {}
        for place, row in enumerate(rows):
            policies.setdefault(row.params.policy, []).append(place)
        most = max(policies, key=lambda policy: len(policies[policy]), default=self._policy)
        self._policy = most
        found = {}
        for policy in policies | {most: policies.get(most, [])}:
            places = np.array(policies.get(policy, []), dtype=np.int64)
            share = np.bincount(levels[places], minlength=len(P)).astype(float)
            share[self.yields.typical] += joining if policy == most else 0
            found[policy] = places, levels[places], share
        return found

    def _missed(self, rows: Sequence[Request], tpot: Floats) -> Floats:
        """By level: time per output token over the strictest target; at most 1 is what is wanted."""
        targets = [target for row in rows if (target := row.params.tpot_s or self.tpot_s)]
        return tpot / min(targets) if targets else np.zeros(len(tpot))

    def _move(self, rate: Floats, missed: Floats, load: Floats) -> Reason:
        """Go to the best level, if that is better enough; returns why the level is what it is."""
        free = int(rate.argmax())
        rate = np.where(missed <= 1, rate, 0) if (missed <= 1).any() else 1 / missed
        best = int(rate.argmax())
        self._since += 1
        self._load = self._load or float(load[self._level])
        changed = float(load[self._level]) / self._load - 1
        gain = float(rate[best] / rate[self._level]) - 1 if rate[self._level] > 0 else np.inf
        settled = self._since >= DWELL or abs(changed) > OTHER_LOAD
        if best == self._level or gain < (BETTER if settled else MUCH_BETTER):
            return "slo" if best != free else "hold"
        grew = best < self._level  # prices ascend, so chunks shrink with the level
        self._level, self._since, self._load = best, 0, float(load[best])
        self.changes += 1
        if best != free:
            return "slo"
        if abs(changed) > OTHER_LOAD and grew == (changed < 0):
            return "load_down" if grew else "load_up"
        return "learned"

    def _prefill(self, situation: Situation, computed: float, speed: float) -> int:
        """Positions of prompt that may join: as many as a target allows, never less than one block."""
        if not self.tpot_s or not situation.prefill:
            return self.prefill_budget
        most = np.arange(0, self.prefill_budget + 1, self.block_size, dtype=float)
        seconds = self.latency.predict_many(computed + situation.fixed + most, situation.kv_tokens)
        fits = int((seconds <= self.tpot_s * speed).sum()) - 1
        return max(self.block_size, int(most[max(fits, 0)]))
