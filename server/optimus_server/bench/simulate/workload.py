"""Who asks what, and when: loads that stay, and requests that arrive."""

from collections.abc import Callable

import numpy as np

from optimus_server.bench.simulate.recording import Recording
from optimus_server.bench.simulate.world import Arrival

# The day of bursty arrivals: in each period of so many seconds, this share of it has this many times the mean rate.
PERIOD_S, BURST_SHARE, BURST = 10.0, 0.2, 3.0


def endless(recording: Recording, context: int, *, seed: int, shared: bool = True) -> Callable[[], Arrival]:
    """Requests for a constant load, each as long as it was when it was recorded.

    All share a prompt of ``context`` tokens, and some more up to where in its block the answer begins, of which only
    the first has to be computed: what is left is decoding. If they do not share it, each has a prompt of its own, of
    about ``context`` tokens.
    """
    rng = np.random.default_rng(seed)

    def draw() -> Arrival:
        source = int(rng.integers(len(recording.tasks)))
        if shared:
            prompt = context + (recording.offsets[source] or recording.block_size)
        else:
            prompt = aligned(recording, context, source)
        return Arrival(0.0, prompt, recording.tokens(source), source, shared=shared)

    return draw


def arrivals(
    recording: Recording, rate: float, count: int, *, prompt: int, answer: int | None, bursty: bool, seed: int
) -> list[Arrival]:
    """``count`` requests at ``rate`` a second on average: a Poisson process, of constant rate or in bursts.

    Args:
        answer: tokens of every answer; None is as long as it was when it was recorded.
    """
    rng = np.random.default_rng(seed)
    due = np.cumsum(rng.exponential(1 / rate, count))
    if bursty:
        due = _bursts(due)
    sources = rng.integers(len(recording.tasks), size=count).tolist()
    return [
        Arrival(at, aligned(recording, prompt, source), answer or recording.tokens(source), source)
        for at, source in zip(due.tolist(), sources, strict=True)
    ]


def aligned(recording: Recording, prompt: int, source: int) -> int:
    """The length nearest to ``prompt`` after which an answer begins where in its block it was recorded."""
    block = recording.block_size
    return max(1, prompt + (recording.offsets[source] - prompt + block // 2) % block - block // 2)


def _bursts(due: np.ndarray) -> np.ndarray:
    """Arrival times, moved so that their density follows the bursts; periods stay what they are."""
    rest = (1 - BURST * BURST_SHARE) / (1 - BURST_SHARE)
    period, phase = np.divmod(due / PERIOD_S, 1)
    within = BURST * BURST_SHARE
    moved = np.where(phase < within, phase / BURST, BURST_SHARE + (phase - within) / rest)
    return np.asarray((period + moved) * PERIOD_S)
