"""E(c): how many tokens a row commits, by chunk size, for every request.

A row that offers ``m`` positions from its frontier on commits a run of tokens; say that the run goes on by one more
with probability ``p``. Then it commits ``run(p, m) = 1 + p + ... + p^(m-1)`` tokens on average, as in speculative
decoding (Leviathan et al., arXiv 2211.17192). One number per request describes it at every chunk size, also at those it
has not used lately: README.md in ``engine`` says how well. ``p`` is found by moment matching: the ``p`` whose expected
advance, over the windows the request really had, is the advance that was observed.

What a chunk size commits and computes in the long run follows by walking through blocks (``long_run``). Systematic
errors of that, by chunk size, are learned from all requests.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from optimus_server.engine.request import Policy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)

# Values of p that a request may have: fine where runs are long.
P: Floats = np.concatenate([np.linspace(0, 0.9, 19), 1 - 0.1 * 0.72 ** np.arange(1, 10)])

# A request forgets its past with this rate per step, all requests together with this one per row.
FORGET_ROW, FORGET_ALL = 0.97, 0.9995
# At any time a request counts as this many steps of an average one, with a window of this many masks.
PRIOR_STEPS, PRIOR_WINDOW = 4.0, 8
# The first request ever is taken for one whose runs go on with this probability.
FIRST_P = 0.6
# Every chunk size counts as if it had once been used for this many tokens, and had done what was computed.
TRUST_TOKENS = 100.0
# Rows of more than 8 commit more than their runs, since some masks beyond the first gap are committed, too: by this
# share more for every doubling, up to 32. A starting point by eye from the demo models; explored blocks correct it.
LARGE = 0.05
# How much a rung tells about its neighbor, and that about the next.
NEIGHBOR = 0.3


def rungs(block_size: int, shift: int) -> tuple[int, ...]:
    """The ladder of a model: up to 2B, from 1 with shifted logits, else from 2.

    Example: B = 4 without shift -> ``2 3 4 6 8``; B = 1 -> ``1``.
    """
    if block_size == 1:
        return (1,)
    top = 2 * block_size
    return (*(c for c in LADDER if 2 - shift <= c < top), top)


def run(p: Floats | float, masks: Floats | float) -> Floats:
    """Expected commits of a row: ``1 + p + ... + p^(masks - 1)``; ``masks`` may be a fraction."""
    return np.asarray((1 - np.power(p, masks)) / (1 - np.asarray(p)))


@lru_cache
def long_run(policy: Policy, block_size: int, shift: int, answers: int = 64, steps: int = 96) -> tuple[Floats, Floats]:
    """Commits and computed positions per step, both ``[P, rungs]``, by walking many answers through their blocks.

    All chunk sizes and probabilities walk with the same random numbers, so that their differences are not noise.
    """
    draws = np.random.default_rng(0).random((steps, 1, 1, answers))
    p, chunk = P[:, None, None], np.array(rungs(block_size, shift))[None, :, None]
    shape = (len(P), chunk.shape[1], answers)
    frontier, pending = np.zeros(shape), np.full(shape, float(shift))
    computed = np.zeros(shape)
    with np.errstate(divide="ignore"):
        runs = np.log(draws) / np.log(p)
    for goes_on in runs:
        border = (frontier // block_size + 1) * block_size
        limit = np.full(shape, np.inf) if policy == "stream" else border
        start = frontier - pending
        stop = np.minimum(start + np.maximum(chunk, pending + 1 - shift), limit)
        computed += stop - start
        pending = np.minimum(1 + np.floor(goes_on), np.minimum(stop + shift, limit) - frontier)
        frontier += pending
    if policy in ("refresh", "stale"):
        computed += frontier
    return frontier.mean(2) / steps, computed.mean(2) / steps


class YieldModel:
    """The continuation probability of every live request, and what each chunk size does at each probability.

    Attributes:
        explored: tokens that each rung was explored with, lately.
    """

    def __init__(self, block_size: int, shift: int) -> None:
        self.rungs = rungs(block_size, shift)
        self._block_size, self._shift = block_size, shift
        self._windows = np.stack([run(P, m) for m in range(2 * block_size + 3)])
        self._prior = self._windows[min(PRIOR_WINDOW, len(self._windows) - 1)]
        self._large = 1 + LARGE * np.clip(np.log2(np.array(self.rungs) / 8), 0, 2)
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._expected = np.zeros((0, len(P)))
        self._advanced = np.zeros(0)
        self._all_expected = self._prior * TRUST_TOKENS
        self._all_advanced = float(run(FIRST_P, PRIOR_WINDOW)) * TRUST_TOKENS
        # Commits and computed positions, seen and expected, of every rung.
        self._commits = np.zeros((2, len(self.rungs)))
        self._computed = np.zeros((2, len(self.rungs)))

    @property
    def explored(self) -> Floats:
        return np.asarray(self._commits[1])

    def slot(self, request_id: str) -> int:
        """Where a request's numbers stand; a new request starts as an average one."""
        if (found := self._slots.get(request_id)) is not None:
            return found
        if not self._free:
            old = len(self._advanced)
            more = max(16, old)
            self._expected = np.concatenate([self._expected, np.zeros((more, len(P)))])
            self._advanced = np.concatenate([self._advanced, np.zeros(more)])
            self._free = list(range(old + more - 1, old - 1, -1))
        slot = self._slots[request_id] = self._free.pop()
        self._expected[slot] = PRIOR_STEPS * self._prior
        self._advanced[slot] = PRIOR_STEPS * self._prior[self.typical]
        return slot

    def close(self, request_id: str) -> None:
        if (slot := self._slots.pop(request_id, None)) is not None:
            self._free.append(slot)

    @property
    def typical(self) -> int:
        """Index into ``P`` of the average request."""
        return int(min((self._all_expected < self._all_advanced).sum(), len(P) - 1))

    def levels(self, slots: Ints) -> Ints:
        """Index into ``P`` of each request."""
        below = self._expected[slots] < self._advanced[slots, None]
        return np.asarray(np.minimum(below.sum(1), len(P) - 1))

    def table(self, policy: Policy) -> tuple[Floats, Floats]:
        """Commits and computed positions per step, both ``[P, rungs]``, in the long run."""
        commits, computed = long_run(policy, self._block_size, self._shift)
        return commits * self._gain(), computed * self._ratio(self._computed)

    def observe(
        self, slots: Ints, masks: Ints, advance: Ints, width: Ints, chunks: Ints, exploring: Bools, policy: Policy
    ) -> None:
        """Learn from the rows of one step that offered masks.

        Args:
            masks: positions from the frontier to the end of each row, committed ones among them included.
            advance: by how much each frontier moved.
            width: positions each row computed.
            chunks: chunk size of each row.
            exploring: rows of blocks that are decoded at another chunk size than their request's own. They say what
                that chunk size does to a request that is known from its other blocks, and nothing about the request.
        """
        levels, size = self.levels(slots), len(self.rungs)
        rung = np.searchsorted(self.rungs, chunks)
        known = np.take(self.rungs, rung, mode="clip") == chunks
        commits, computed = long_run(policy, self._block_size, self._shift)
        for sums, rows, seen, table in (
            (self._commits, known & exploring, advance, commits * self._large),
            (self._computed, known, width, computed),
        ):
            sums *= FORGET_ALL ** int(rows.sum())
            sums[0] += np.bincount(rung[rows], seen[rows], size)
            sums[1] += np.bincount(rung[rows], table[levels[rows], rung[rows]], size)

        # A single mask is always committed: that says nothing.
        own = ~exploring & (masks > 1)
        slots, advance, rung, known = slots[own], advance[own], rung[own], known[own]
        ratio = np.where(known, np.take(self._gain(), rung, mode="clip"), 1.0)
        windows = self._windows[np.minimum(masks[own], len(self._windows) - 1)] * ratio[:, None]
        prior = (1 - FORGET_ROW) * PRIOR_STEPS * self._prior
        self._expected[slots] = self._expected[slots] * FORGET_ROW + windows + prior
        self._advanced[slots] = self._advanced[slots] * FORGET_ROW + advance + prior[self.typical]
        keep = FORGET_ALL ** len(slots)
        self._all_expected = self._all_expected * keep + windows.sum(0)
        self._all_advanced = self._all_advanced * keep + float(advance.sum())

    def _gain(self) -> Floats:
        """What each rung commits, over what ``run`` says."""
        return self._large * self._ratio(self._commits)

    def _ratio(self, sums: Floats) -> Floats:
        """Seen over expected; a rung takes after its neighbors."""
        places = np.arange(len(self.rungs))
        seen, expected = sums @ NEIGHBOR ** np.abs(np.subtract.outer(places, places)) + TRUST_TOKENS
        return np.asarray(seen / expected)
