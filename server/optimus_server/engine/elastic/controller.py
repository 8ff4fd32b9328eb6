"""The choice of chunk sizes, once a step: the most commits per second that are to be had.

    maximize    mean of log E_i(c_i) - log T(n, k)    E_i commits of row i, n positions and k KV tokens of the step
    subject to  T(n, k) / E <= TPOT                   for requests that have a target

Logarithms, because a row that commits faster leaves earlier and another takes its place: what counts is by which factor
each is sped up. (Maximizing the sum of E instead favors easy requests, and fills the batch with hard ones.) For the
same reason more commits bring more prompt, which is part of n (``prompts.py``).

All rows pay the same *price* per computed position; each takes the chunk size that is best for it at that price,
``max log E(c) - price * n(c)``. So a request whose tokens come easily gets a large chunk in the same step in which
another gets a small one, and one number remains to be chosen: at price 0 everybody takes the largest chunk, at price 1
the smallest. A *level* is one such price.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.elastic.choice import Choice, Situation
from optimus_server.engine.elastic.explore import Explorer
from optimus_server.engine.elastic.latency import LatencyModel
from optimus_server.engine.elastic.levels import rungs_by_level
from optimus_server.engine.elastic.prompts import PromptLoad
from optimus_server.engine.elastic.yields import YieldModel
from optimus_server.engine.request import Commits, Policy, Request
from optimus_server.engine.step import Turn
from optimus_server.engine.telemetry import Decision, Reason

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A level is left when what the best one would have gained since the last change, less SLACK a step, adds up to a whole
# step's work (CUSUM): at once if it is twice as fast, in 12 steps if it is 8 % better, never for a fifth of a percent.
SLACK, WHOLE = 0.002, 1.0
# Each level has a sum of its own, and what it would have lost counts against it, up to CREDIT: one that is better now
# and worse then, as rows come and go, is left alone. Where the load is another one, what was lost before it came is no
# merit.
CREDIT = 1.0
# Steps are counted so many standard deviations from their mean, at which three stand for all.
FAR = (-(1.5**0.5), 0.0, 1.5**0.5)
# A batch of this share more or fewer rows than when the level was chosen is another load.
OTHER_LOAD = 0.1
# Rows swing by a factor of up to exp(SWING) where requests come and go, or wait for pages. What was chosen for a load
# that is further away is left so many times sooner for each factor of e.
SWING, HASTE = 0.4, 20.0
# With many requests nothing changes in one step, and the device must not wait for the host: a choice holds for a step
# for each so many rows, but for so many steps at most.
HELD_ROWS, HELD_STEPS = 16, 8


@dataclass(frozen=True, slots=True)
class _Held:
    """A choice that holds for some steps more: of which requests, and of how many rows at which pace."""

    choice: Choice
    chunks: dict[str, int]
    rows: int
    pace: float


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
        self._level = 0
        self._regret: Floats = np.zeros(1)  # by level
        self._rows = 0
        self._policy: Policy = "chunk"
        self._openings: dict[Policy, int] = {}
        self._prompts = PromptLoad()
        self._explorer = Explorer(yields, block_size)
        self._held: _Held | None = None
        self._since = 1

    def opening(self, policy: Policy) -> int:
        """Chunk size of a request that joins, of which nothing is known."""
        if self.pinned is not None:
            return self.pinned
        if policy not in self._openings:
            commits, computed = self.yields.table(policy)
            common = self.yields.common[None]
            rung = self._rungs(common @ np.log(commits), common @ computed)[self._level, 0]
            self._openings[policy] = self.yields.rungs[int(rung)]
        return self._openings[policy]

    def choose(self, situation: Situation) -> Choice:
        """Chunk sizes for the next step."""
        rows = situation.rows
        if self.pinned is not None:
            chunks = (self.pinned,) * len(rows)
            return Choice(chunks, self.pinned, "manual", self.prefill_budget, float(len(rows) + situation.fixed_rows))
        if not rows and not situation.joining:
            reason: Reason = "manual" if situation.fixed_rows else "idle"
            return Choice((), 0, reason, self.prefill_budget, float(situation.fixed_rows))

        if self._holds(len(rows)):
            return self._hold(situation)
        self._openings.clear()
        self._policy, tables = self._expect(rows)
        rung = self._rungs(tables[0], tables[2])
        share = np.ones(len(rows) + 1)
        share[-1] = situation.joining
        count = len(rows) + situation.joining
        of_each = [table[np.arange(len(rows) + 1), rung] for table in tables]
        logs, commits, decoding, variance = (table @ share for table in of_each[:4])
        speed = np.exp(logs / count)
        # Who commits more finishes sooner, and makes room for the next prompt.
        prompt = self._prompts.at(count * speed)
        decoding = situation.present * (decoding + situation.fixed)
        running = count + situation.fixed_rows
        if situation.ahead:
            longest = of_each[4].max(1)
            variance = np.where(longest > decoding, 0, variance)
            decoding = np.maximum(decoding, longest)
        rate = speed / self._seconds(decoding, np.sqrt(variance), running, prompt, situation.kv_tokens)
        missed, free = self._missed(rows, 1 / rate), int(rate.argmax())
        rate = np.where(missed <= 1, rate, 1e-9 * rate) if (missed <= 1).any() else 1 / missed
        reason = self._move(rate, decoding, free, running)
        level = self._level
        pace = float(count * speed[level])
        self._prompts.decided(pace)
        chosen = rung[level].copy()
        if self._ragged and rows:
            load, width = float(decoding[level] + prompt[level]), float(decoding[level]) / running

            def longer(more: Floats) -> Floats:
                """Logarithm of how many times longer steps with so many positions more take."""
                positions = load + np.concatenate([[0.0], more])
                seconds = self.latency.shared_many(positions, np.full(len(positions), width), situation.kv_tokens)
                return np.asarray(np.log(seconds[1:] / seconds[0]))

            self._explorer.explore(rows, chosen[:-1], rung[:, :-1], rate, tables[0], tables[2], longer)
        chunks = tuple(self.yields.rungs[rung] for rung in chosen[:-1].tolist())
        choice = Choice(
            chunks,
            self.yields.rungs[chosen[-1]],
            reason,
            self._prefill(situation, float(decoding[level]), float(speed[level])),
            float(commits[level]) + situation.fixed_rows,
        )
        self._since = 1
        self._held = _Held(choice, {row.id: chunk for row, chunk in zip(rows, chunks, strict=True)}, len(rows), pace)
        return choice

    def _holds(self, rows: int) -> bool:
        """Whether the last choice does for as many rows, too."""
        if self._held is None or self._since >= min(self._held.rows // HELD_ROWS, HELD_STEPS):
            return False
        return abs(rows - self._held.rows) <= OTHER_LOAD * self._held.rows

    def _hold(self, situation: Situation) -> Choice:
        assert self._held
        self._since += 1
        choice = self._held.choice
        self._prompts.decided(self._held.pace)
        chunks = tuple([self._held.chunks.get(row.id, choice.typical) for row in situation.rows])
        reason: Reason = "slo" if choice.reason == "slo" else "hold"
        return Choice(chunks, choice.typical, reason, choice.prefill, choice.expected_commits)

    def learn(
        self,
        decision: Decision,
        turns: Sequence[Turn],
        commits: Sequence[Commits],
        seconds: float,
    ) -> None:
        """Take a step's result: what its rows committed, and how long it took."""
        self.latency.observe(decision.positions, decision.kv_tokens, seconds)
        policies: dict[Policy, list[int]] = {}
        prompt = 0
        for turn, found in zip(turns, commits, strict=True):
            row, request = turn.row, turn.row.request
            # The row that ends a prompt carries some of it, which is no price of its tokens.
            begin = min(max(row.start, request.known - request.shift), row.stop)
            prompt += begin - row.start
            if found.offered and request.params.policy != "block":
                behind = int(request.committed[request.end :].sum()) if request.finished else 0
                policies.setdefault(request.params.policy, []).extend(
                    (self.yields.slot(request.id), len(found.positions), behind, begin, row.stop, turn.chunk)
                )
        for policy, numbers in policies.items():
            slots, committed, wasted, starts, stops, chunks = np.array(numbers).reshape(-1, 6).T
            self.yields.observe(slots, committed, wasted, starts, stops, chunks, policy)
        self._prompts.learn(prompt)

    def forget(self, request_id: str) -> None:
        self.yields.close(request_id)

    def _expect(self, rows: Sequence[Request]) -> tuple[Policy, list[Floats]]:
        """Mean log of commits, commits, computed positions, their variance, the longest: each ``[rows + 1, rungs]``.

        The last row is one that joins. Those that join are taken for any of the policy most rows have.
        """
        slots = np.array([self.yields.slot(row.id) for row in rows], dtype=np.int64)
        kinds = np.concatenate([self.yields.kinds(slots), self.yields.common[None]])
        policies: list[Policy] = [row.params.policy for row in rows]
        most = max(set(policies), key=policies.count, default=self._policy)
        policies.append(most)
        found = np.zeros((5, len(kinds), len(self.yields.rungs)))
        for policy in set(policies):
            mine = np.array(policies) == policy
            commits, computed = self.yields.table(policy)
            _, _, variance, longest = self.yields.long_run(policy)
            for table, value in zip(found, (np.log(commits), commits, computed, variance, longest), strict=True):
                table[mine] = kinds[mine] @ value
        return most, list(found)

    def _rungs(self, speed: Floats, computed: Floats) -> Ints:
        """``[levels, rows]``; not ragged, a level is a chunk size for all."""
        if self._ragged:
            return rungs_by_level(speed, computed)
        return np.repeat(np.arange(len(self.yields.rungs))[::-1, None], len(speed), axis=1)

    def _seconds(self, positions: Floats, spread: Floats, rows: int, prompt: Floats, kv_tokens: int) -> Floats:
        """Mean time of steps of so many rows with so many positions, and so many of prompt on average.

        Where steps are padded, it counts how far single steps are from the mean (``spread``, a standard deviation).
        """
        load = positions[:, None] + np.multiply.outer(prompt, self._prompts.bursts)
        if self.latency.profile.padded_to:
            load = np.concatenate([load + spread[:, None] * far for far in FAR], axis=1).clip(1)
        return np.asarray(self.latency.shared_many(load, positions[:, None] / rows, kv_tokens).mean(1))

    def _missed(self, rows: Sequence[Request], tpot: Floats) -> Floats:
        """By level: time per output token over the strictest target; at most 1 is what is wanted."""
        targets = [target for row in rows if (target := row.params.tpot_s or self.tpot_s)]
        return tpot / min(targets) if targets else np.zeros(len(tpot))

    def _move(self, rate: Floats, positions: Floats, free: int, rows: int) -> Reason:
        """Go to the best level, if that is better enough; returns why the level is what it is.

        Args:
            rate, positions: of each level.
            free: which one would be best without targets.
        """
        best = int(rate.argmax())
        self._rows = self._rows or rows
        changed = rows / self._rows - 1
        gain = rate / rate[self._level] - 1
        beyond = max(0.0, abs(math.log(rows / self._rows)) - SWING)
        self._regret = np.maximum(0 if beyond else -CREDIT, self._regret + self._since * (gain - SLACK))
        if self._regret[best] < WHOLE / (1 + HASTE * beyond):
            return "slo" if best != free else "hold"
        grew = positions[best] > positions[self._level]
        self._level, self._regret, self._rows = best, np.zeros(1), rows
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
        seconds = self.latency.predict_many(computed + most, situation.kv_tokens)
        fits = int((seconds <= self.tpot_s * speed).sum()) - 1
        return max(self.block_size, int(most[max(fits, 0)]))
