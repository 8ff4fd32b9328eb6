"""T(n, k): how long a step of ``n`` positions that reads ``k`` KV tokens takes.

The shape comes from a profile: step times at some ``n`` (the knots) and a price per KV token. Observed steps correct
it, so a slower clock, a noisy neighbor or a wrong profile heals. What may be wrong is, in this order, how fast all is,
what positions cost beside the floor, and each knot, much like its neighbors. A Kalman filter attributes what is seen to
these: so what was seen at some ``n`` tells something about all others, and does not have to be unlearned there.

Where steps are padded to rooms (``engine.graphs``), T is a flight of stairs: one position more than a room holds costs
as much as the next room. Then it may be better that a few rows wait for one step (``shared_many``).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Standard deviations of the logarithms of how fast all is, what positions cost, and each knot; by how many octaves
# knots are apart that are alike by 1/e.
ALL, SLOPE, KNOT, OCTAVES = 0.7, 1.0, 0.25, 3.0
# Standard deviation of the logarithm of a step's time. One that surprises counts for less: it may be a step that waited
# for something. If others follow, more than NOT_NOISE standard deviations off, things have changed.
NOISE, DOUBT, NOT_NOISE = 0.05, 3.0, 3.0
# Share of what was known at the start that is unknown again after each step, and after each that is not noise.
FORGET, FORGET_MORE = 1e-4, 0.05
# No single step, however late, moves the correction as if it had been more than e times off.
LARGEST_SURPRISE = 1.0
# Corrections stay between 1/20 and 20: a clock that counts backwards must not end in an overflow.
LARGEST_CORRECTION = math.log(20)
# Rows wait for room only where that saves so much of the time: where steps are long, the price of a position hardly
# depends on the room, and who waits has waited for nothing.
WAIT = 1.03


@dataclass(frozen=True, slots=True)
class Profile:
    """Step times as measured once: ``seconds[i]`` for ``positions[i]`` without context, and seconds per KV token.

    Attributes:
        padded_to: steps of at most so many positions are padded to the next of ``positions``; between all others times
            are interpolated.

    Raises:
        ValueError: positions do not ascend, or a time is not a positive number.
    """

    positions: tuple[int, ...]
    seconds: tuple[float, ...]
    per_kv_token: float
    padded_to: int = 0

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.positions, self.positions[1:], strict=False))
        if not self.positions or len(self.positions) != len(self.seconds) or not ascending or self.positions[0] < 1:
            raise ValueError("positions must ascend from 1 or more, with one time each")
        if not all(math.isfinite(s) and s > 0 for s in self.seconds):
            raise ValueError("seconds must be positive numbers")
        if not (math.isfinite(self.per_kv_token) and self.per_kv_token >= 0):
            raise ValueError("per_kv_token must not be negative")

    @property
    def rooms(self) -> tuple[int, ...]:
        """What steps are padded to."""
        return tuple(n for n in self.positions if n <= self.padded_to)

    @classmethod
    def unmeasured(cls) -> "Profile":
        """A device nobody has looked at: flat, then proportional to the positions. Only its shape matters."""
        return cls((1, 64, 128, 256, 512, 1024, 2048), (1.0, 1.0, 1.3, 2.0, 4.0, 8.0, 16.0), 0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Profile":
        """Raises ValueError, KeyError or TypeError if ``data`` is not what ``to_json`` made."""
        positions, seconds = tuple(map(int, data["positions"])), tuple(map(float, data["seconds"]))
        return cls(positions, seconds, float(data["per_kv_token"]), int(data.get("padded_to", 0)))

    def scaled(self, factor: float) -> "Profile":
        return replace(self, seconds=tuple(s * factor for s in self.seconds), per_kv_token=self.per_kv_token * factor)


def monotone(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never falls: ``1 3 2 4`` -> ``1 2.5 2.5 4`` (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, nb), (a, na) = pools.pop(), pools.pop()
            pools.append(((a * na + b * nb) / (na + nb), na + nb))
    return [mean for mean, count in pools for _ in range(count)]


class LatencyModel:
    """A profile and what has been learned since.

    Example:

        >>> model = LatencyModel(Profile((1, 256, 512), (0.006, 0.008, 0.013), 5e-8))
        >>> model.predict(384, 0)
        0.0105
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._knots = np.array(profile.positions, float)
        self._seconds = np.array(monotone(profile.seconds))
        self._rooms = len(profile.rooms)
        # Logarithms of what is wrong: all, what positions cost, each knot.
        self._wrong = np.zeros(2 + len(self._knots))
        octaves = np.log2(self._knots)
        self._unknown = np.zeros((len(self._wrong), len(self._wrong)))
        self._unknown[0, 0], self._unknown[1, 1] = ALL**2, SLOPE**2
        self._unknown[2:, 2:] = KNOT**2 * np.exp(-np.abs(np.subtract.outer(octaves, octaves)) / OCTAVES)
        # Covariance of ``wrong``.
        self._doubt = self._unknown.copy()

    def predict_many(self, positions: Floats, kv_tokens: float) -> Floats:
        """Seconds for each of ``positions``; never falls with ``positions`` nor with ``kv_tokens``."""
        return self._at(self._corrected(), positions) + kv_tokens * self._per_kv_token

    def shared_many(self, positions: Floats, width: Floats, kv_tokens: float) -> Floats:
        """Seconds that steps of so many ``positions`` take of all time, where rows may wait for the next step.

        If 256 positions take 7 ms and 288 take 8, rows of one position, 262 in all, are served soonest in steps of 256:
        then a step of 262 takes 262 / 256 steps of 7 ms. The row that a room is too small for leaves a gap, of half of
        ``width`` on average.
        """
        times = self._corrected()
        seconds = self._at(times, positions)
        if self._rooms:
            rooms, price = self._knots[: self._rooms], times[: self._rooms] / self._knots[: self._rooms]
            # [rooms]: the cheapest one up to each
            cheapest = np.maximum.accumulate(np.where(price <= np.minimum.accumulate(price), np.arange(len(rooms)), 0))
            best = cheapest[(np.searchsorted(rooms, positions, side="right") - 1).clip(0)]
            filled = np.maximum(rooms[best] - width / 2, 1e-9)
            waiting = np.where(rooms[best] >= 2 * width, times[best] * positions / filled, np.inf)
            seconds = np.where((positions <= self.profile.padded_to) & (WAIT * waiting < seconds), waiting, seconds)
        return np.asarray(seconds + kv_tokens * self._per_kv_token)

    def predict(self, positions: float, kv_tokens: float) -> float:
        return float(self.predict_many(np.array([positions], float), kv_tokens)[0])

    def profiled_many(self, positions: Floats, kv_tokens: Floats) -> Floats:
        """Seconds as the profile has them, without what was learned since."""
        return self._at(self._seconds, positions) + kv_tokens * self.profile.per_kv_token

    def observe(self, positions: int, kv_tokens: int, seconds: float) -> None:
        """Learn from one step. What is not a positive number is ignored: clocks break, servers should not."""
        if not (math.isfinite(seconds) and seconds > 0 and positions > 0):
            return
        positions = int(self._padded(np.array([positions], float))[0])
        surprise = math.log(seconds / self.predict(positions, kv_tokens))
        surprise = max(-LARGEST_SURPRISE, min(LARGEST_SURPRISE, surprise))
        seen = self._seen(positions)
        moves = self._doubt @ seen
        expected = float(seen @ moves) + NOISE**2
        forget = FORGET_MORE if abs(surprise) > NOT_NOISE * math.sqrt(expected) else FORGET
        expected += DOUBT * surprise**2
        self._wrong += moves * (surprise / expected)
        np.clip(self._wrong, -LARGEST_CORRECTION, LARGEST_CORRECTION, out=self._wrong)
        self._doubt -= np.outer(moves, moves) / expected
        self._doubt += forget * (self._unknown - self._doubt)

    def _seen(self, positions: int) -> Floats:
        """By how much a step of so many positions is longer for each of what may be wrong."""
        above = int(np.searchsorted(self._knots, positions).clip(0, len(self._knots) - 1))
        below = max(0, above - 1)
        span = self._knots[above] - self._knots[below]
        share = float(np.clip((positions - self._knots[below]) / span, 0, 1)) if span else 1.0
        seen = np.zeros(len(self._wrong))
        seen[0], seen[2 + below], seen[2 + above] = 1.0, 1 - share, share
        steeper = (self._seconds - self._seconds[0]) * math.exp(self._wrong[1])
        seen[1] = (steeper / (self._seconds[0] + steeper)) @ seen[2:]
        return seen

    @property
    def _per_kv_token(self) -> float:
        return self.profile.per_kv_token * math.exp(self._wrong[0])

    def _padded(self, positions: Floats) -> Floats:
        """The rooms of steps of so many positions."""
        above = np.searchsorted(self._knots, positions).clip(0, len(self._knots) - 1)
        return np.where(positions <= self.profile.padded_to, self._knots[above], positions)

    def _at(self, times: Floats, positions: Floats) -> Floats:
        knots, positions = self._knots, self._padded(positions)
        seconds = np.interp(positions, knots, times)
        beyond = positions - knots[-1]
        if len(knots) > 1 and (beyond > 0).any():
            slope = (times[-1] - times[-2]) / (knots[-1] - knots[-2])
            seconds = seconds + np.maximum(beyond, 0) * slope
        return np.asarray(seconds)

    def _corrected(self) -> Floats:
        everywhere, steeper, each = self._wrong[0], self._wrong[1], self._wrong[2:]
        floor = self._seconds[0]
        times = (floor + (self._seconds - floor) * math.exp(steeper)) * np.exp(everywhere + each)
        return np.asarray(np.maximum.accumulate(times))
