"""E(c): how many tokens a row commits, by chunk size, for every request.

A row commits a run of tokens from its frontier on: it goes on by one more with probability ``p``, as in speculative
decoding (Leviathan et al., arXiv 2211.17192). Beyond the run, each mask that is near enough commits with the small
probability ``BESIDE``. So one number per request describes it at every chunk size, also at those it does not use.
What a chunk size commits and computes in the long run follows by walking through blocks (``long_run``).

A request's ``p`` is known as a distribution: how common each value is among requests, times how well it explains what
this one has committed (empirical Bayes; the prior is the mean of the posteriors, as in EM, of those whose steps told
something). So requests that are alike are taken for the same, however noisy their few steps are, and where there are
two kinds, a few steps tell them apart.
"""

from collections import deque
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.elastic.corrections import Corrections
from optimus_server.engine.request import Policy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

# Values of p that a request may have: fine where runs are long.
P: Floats = np.concatenate([np.linspace(0, 0.9, 19), 1 - 0.1 * 0.72 ** np.arange(1, 10)])
# A mask beyond the run commits with this probability if it is within so many positions of the frontier. Fitted by eye
# to stories of the demo models, whose yield they describe within 6 % at every chunk size.
BESIDE, REACH = 0.04, 16
# A request forgets its past at this rate per step.
FORGET = 0.98
# Steps are not independent, so that many count as one.
TEMPER = 2.0
# How common each p is: told by those that run and the last so many that ended, and by so many of any kind.
ENDED, ANY = 128, 1.0
# It follows them at this rate per step, since requests that begin together are in the same part of their blocks.
SETTLE = 0.05
# How much a request of each p takes after the hard ones and the easy ones.
LIKENESS: Floats = np.stack([np.interp(np.arange(len(P)), (8, 22), ends) for ends in ((1, 0), (0, 1))], axis=1)


def rungs(block_size: int, shift: int) -> tuple[int, ...]:
    """The ladder of a model: up to 2B, from 1 with shifted logits, else from 2.

    Example: B = 4 without shift -> ``2 3 4 6 8``; B = 1 -> ``1``.
    """
    if block_size == 1:
        return (1,)
    top = 2 * block_size
    return (*(c for c in LADDER if 2 - shift <= c < top), top)


class LongRun(NamedTuple):
    """Means per step, all ``[P, rungs]``.

    Attributes:
        commits, computed: tokens and positions.
        variance: of the positions.
        longest: positions of the longest row that may come of a step while nobody knows what it commits.
    """

    commits: Floats
    computed: Floats
    variance: Floats
    longest: Floats


@lru_cache
def long_run(
    policy: Policy, ladder: tuple[int, ...], block_size: int, shift: int, *, answers: int = 24, steps: int = 96
) -> LongRun:
    """What requests of each kind do at each chunk size, by walking many answers through their blocks.

    All chunk sizes and probabilities walk with the same random numbers, so that their differences are not noise.
    """
    rng = np.random.default_rng(0)
    size = 4 * block_size if policy == "stream" else block_size
    p, chunk = P[:, None, None, None], np.array(ladder)[None, :, None]
    place = np.arange(size)
    shape = (len(P), chunk.shape[1], answers)
    masked = np.ones((*shape, size), dtype=bool)
    frontier, pending = np.zeros(shape, dtype=int), np.full(shape, shift)
    committed, computed, squares, longest = np.zeros((4, *shape))
    for _ in range(steps):
        goes_on, beside = rng.random((2, answers, size))
        stop = np.minimum(frontier - pending + np.maximum(chunk, pending + 1 - shift), size)
        width = stop - frontier + pending
        computed += width
        squares += width**2
        # If all is committed, the next row begins at the frontier.
        wanted = np.maximum(chunk, stop - frontier + 1)
        left = np.where(stop + shift < size, size, size + block_size) - frontier
        longest += np.maximum(width, np.minimum(wanted, left))
        offered = masked & (place < np.minimum(stop + shift, size)[..., None])
        run = offered & np.logical_and.accumulate((goes_on < p) | ~offered | (place == frontier[..., None]), axis=3)
        near = place < frontier[..., None] + REACH
        taken = run | (offered & near & (beside < BESIDE))
        committed += taken.sum(3)
        masked &= ~taken
        after = np.where(masked.any(3), masked.argmax(3), size)
        pending = np.maximum(after - frontier, shift)
        # Blocks that are over leave, others take their place; without borders between them, some are in view already.
        over = after >= block_size
        masked[over] = np.pad(masked[over][:, block_size:], ((0, 0), (0, block_size)), constant_values=True)
        frontier = after - block_size * over
    mean = computed.mean(2) / steps
    variance = squares.mean(2) / steps - mean**2
    if policy in ("refresh", "stale"):
        mean = mean + committed.mean(2) / steps
    return LongRun(committed.mean(2) / steps, mean, variance, longest.mean(2) / steps)


class YieldModel:
    """What every live request is likely to commit, at every chunk size.

    Args:
        ladder: chunk sizes to choose from, ascending; the model's own by default.

    Attributes:
        rungs: the ladder.
        common: ``[P]``, how common each probability is among requests.
    """

    def __init__(self, block_size: int, shift: int, ladder: tuple[int, ...] | None = None) -> None:
        self.rungs = ladder or rungs(block_size, shift)
        self._block_size, self._shift = block_size, shift
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._ended: deque[int] = deque()
        self._evidence, self._kind = np.zeros((2, 0, len(P)))
        # How much there is to know of each from its steps: 1 after one that tells kinds apart, less and less without.
        self._told = np.zeros(0)
        self.common = np.full(len(P), 1 / len(P))
        # The rung of each one's last row that offered masks, -1 before the first; where that stopped, and the last
        # row of another rung.
        self._last = np.zeros((3, 0), dtype=np.int64)
        # Chunk sizes are alike that compute the same: near the block's, whatever is larger does. In half octaves.
        computed = self.long_run("chunk").computed.mean(0)
        self._corrections = Corrections(len(self.rungs), LIKENESS, 2 * np.log2(computed))

    def slot(self, request_id: str) -> int:
        """Where a request's numbers stand; a new request may be of any kind, as those before it."""
        if (found := self._slots.get(request_id)) is not None:
            return found
        if not self._free:
            old = len(self._kind)
            more = max(16, old)
            self._evidence, self._kind = (
                np.concatenate([rows, np.zeros((more, len(P)))]) for rows in (self._evidence, self._kind)
            )
            self._told = np.concatenate([self._told, np.zeros(more)])
            self._last = np.concatenate([self._last, np.zeros((3, more), dtype=np.int64)], axis=1)
            self._free = list(range(old + more - 1, old - 1, -1))
        slot = self._slots[request_id] = self._free.pop()
        self._evidence[slot], self._kind[slot], self._told[slot] = 0, self.common, 0
        self._last[:, slot] = -1, 0, 0
        return slot

    def close(self, request_id: str) -> None:
        if (slot := self._slots.pop(request_id, None)) is not None:
            self._ended.append(slot)
            if len(self._ended) > ENDED:
                self._free.append(self._ended.popleft())

    def kinds(self, slots: Ints) -> Floats:
        """``[slots, P]``, how likely each probability is for each request."""
        return np.asarray(self._kind[slots])

    def table(self, policy: Policy) -> tuple[Floats, Floats]:
        """Commits and computed positions per step, both ``[P, rungs]``, in the long run."""
        found = self.long_run(policy)
        more_commits, more_computed = self._corrections.factors
        return found.commits * more_commits, found.computed * more_computed

    def long_run(self, policy: Policy) -> LongRun:
        """The same, and more, as it was before anything was learned."""
        return long_run(policy, self.rungs, self._block_size, self._shift)

    def doubt(self, slots: Ints) -> Floats:
        """``[slots, rungs]``, by which share each chunk size may well do better or worse than is known."""
        return self._kind[slots] @ self._corrections.doubt

    def draws(self, count: int) -> Floats:
        """``[count, rungs]``, normal draws, alike where chunk sizes are: by how much of its doubt each is better."""
        values, vectors = np.linalg.eigh(self._corrections.alike)
        factor = vectors * np.sqrt(values.clip(0))
        return np.asarray(np.random.default_rng(0).standard_normal((count, len(self.rungs))) @ factor.T)

    def observe(
        self, slots: Ints, commits: Ints, wasted: Ints, starts: Ints, stops: Ints, chunks: Ints, policy: Policy
    ) -> None:
        """Learn from the rows of one step that offered masks.

        Args:
            commits: masks that each row committed.
            wasted: tokens it has committed, now or before, behind the end that its answer turns out to have.
            starts, stops: which positions each row computed.
            chunks: chunk size of each row.
        """
        # A chunk size that is none of the ladder's counts as the one below.
        rung = np.searchsorted(self.rungs, chunks, side="right").clip(1) - 1
        tables, kind = self.long_run(policy)[:2], self._kind[slots]
        # What an earlier rung has offered is more or less committed than this one leaves it.
        before, stopped, border = self._last[:, slots]
        border = np.where(before == rung, border, stopped)
        again = (before == rung) & (starts >= border)
        self._last[:, slots] = rung, stops, border
        commits_expected, width_expected = (table.T[rung] for table in tables)
        expected = commits_expected, width_expected
        self._corrections.observe(rung, again, kind, (commits, commits - wasted), stops - starts, expected)

        # As if what a row commits were exponential. What it commits whatever its kind, at chunk 1, tells nothing.
        mean = commits_expected
        self._evidence[slots] = FORGET * self._evidence[slots] - (commits[:, None] / mean + np.log(mean)) / TEMPER
        self._told[slots] = np.maximum(FORGET * self._told[slots], (tables[0][-1] > 1.01 * tables[0][0])[rung])
        live = [*self._slots.values(), *self._ended]
        kind = self.common * np.exp(self._evidence[live] - self._evidence[live].max(1, keepdims=True))
        self._kind[live] = kind / kind.sum(1, keepdims=True)
        common = ANY / len(P) + self._told[live] @ self._kind[live]
        self.common += SETTLE * (common / common.sum() - self.common)
