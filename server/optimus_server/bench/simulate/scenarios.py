"""What is asked of the controller, and by which figures it is judged.

Every scenario compares schemes in the same world: autoregressive decoding by a model of the same size, whole blocks,
each fixed chunk size, and the controller. Each is a function of plain values, so that many run at the same time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimus_server.bench.simulate.recording import Recording
from optimus_server.bench.simulate.workload import endless
from optimus_server.bench.simulate.world import AR, Arrival, Run, Scheme, World
from optimus_server.engine.elastic.latency import Profile
from optimus_server.engine.elastic.yields import rungs

Floats = NDArray[np.float64]

# A constant load is simulated for so many steps, and for this many rows but for at most this many times as many steps;
# a third of them is its start, which does not count: the longest answers, 400 tokens, take 300 steps.
STEPS, ROWS, MORE = 600, 48_000, 20
# A fixed chunk size is run at length only if a run of so many times fewer steps leaves it this near the best.
SHORTER, NEAR = 6, 0.06
# A load is there for so many steps before it changes.
BEFORE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model, a machine and a seed.

    Attributes:
        profile: what the controller takes the machine for.
        context: tokens of a prompt, of constant loads.
        shared: whether the prompts of constant loads are one, which is cached; else each is computed.
        ahead: whether a step is launched while the one before is under way, as on a GPU.
    """

    recording: Recording
    table: Profile
    profile: Profile | None = None
    context: int = 128
    shared: bool = True
    ahead: bool = False
    seed: int = 0

    def endless(self, more: int = 1) -> Callable[[], Arrival]:
        """Requests for a constant load; those of another ``more`` are others."""
        return endless(self.recording, self.context, seed=self.seed + more, shared=self.shared)

    def world(self, scheme: Scheme, rows: int) -> World:
        """For constant loads: every request's whole KV fits."""
        room = (self.context + 1024) * (rows + 2)
        return World(
            self.recording, self.table, scheme, profile=self.profile, max_rows=rows, kv_tokens=room, ahead=self.ahead,
            seed=self.seed,
        )  # fmt: skip


def schemes(recording: Recording) -> list[Scheme]:
    """All that are compared; the fixed chunk sizes are those of the controller's ladder."""
    fixed = [Scheme.fixed(chunk) for chunk in rungs(recording.block_size, recording.shift)]
    return [AR, Scheme.block(recording.block_size), *fixed, Scheme.elastic()]


@dataclass(frozen=True, slots=True)
class Steady:
    """A scheme under a constant load: tokens a second, mean chunk size, changes of the level per 100 steps."""

    scheme: str
    batch: int
    context: int
    rate: float
    chunk: float
    changes: float


def constant(setting: Setting, scheme: Scheme, batch: int, steps: int = STEPS) -> Steady:
    """So many requests at all times."""
    steps = max(steps, min(steps * MORE, steps * ROWS // STEPS // batch))
    skip = steps // 3
    world = setting.world(scheme, batch)
    draw = setting.endless()
    world.closed(batch, skip, draw)
    before = world.engine.controller.changes
    run = world.closed(batch, steps - skip, draw)
    changes = 100 * (world.engine.controller.changes - before) / (steps - skip)
    chunk = float(np.mean([step.chunk for step in run.steps[skip:]]))
    return Steady(scheme.name, batch, setting.context, run.throughput(skip), chunk, changes)


def point(setting: Setting, batch: int, steps: int = STEPS) -> list[Steady]:
    """All schemes under a constant load, in their order."""
    ar, block, *fixed, elastic = schemes(setting.recording)
    found = [constant(setting, scheme, batch, steps // SHORTER) for scheme in fixed]
    least = (1 - NEAR) * max(one.rate for one in found)
    near = [
        constant(setting, scheme, batch, steps) if one.rate > least else one
        for scheme, one in zip(fixed, found, strict=True)
    ]
    first, second, last = (constant(setting, scheme, batch, steps) for scheme in (ar, block, elastic))
    return [first, second, *near, last]


def best_fixed(setting: Setting, batch: int) -> Scheme:
    """The fixed chunk size that a constant load is served best with."""
    fixed = [scheme for scheme in schemes(setting.recording) if scheme.name.startswith("chunk")]
    return max(fixed, key=lambda scheme: constant(setting, scheme, batch, STEPS // 3).rate)


@dataclass(frozen=True, slots=True)
class Settling:
    """How a scheme came to the optimum of a new load.

    Attributes:
        load: requests before and after.
        best: the fixed chunk size that is best afterwards.
        ratio: tokens a second over those of ``best``, over windows that begin at each step after the change.
        steps: after so many, ``ratio`` stays above 0.95.
        chunks: mean chunk size at each step.
    """

    load: tuple[int, int]
    best: str
    ratio: tuple[float, ...]
    steps: int
    chunks: tuple[float, ...]


def load_step(setting: Setting, before: int, after: int, *, steps: int = 200, seeds: int = 8) -> Settling:
    """The load changes at once: everybody leaves, and others come, the same for all schemes."""
    best = best_fixed(setting, after)
    elastic, fixed, chunks = [], [], []
    for seed in range(seeds):
        one = replace(setting, seed=setting.seed + seed)
        elastic.append(_step_run(one, Scheme.elastic(), before, after, steps))
        fixed.append(_step_run(one, best, before, after, steps))
        chunks.append([step.chunk for step in elastic[-1].steps[-steps:]])
    return _settling((before, after), best, elastic, fixed, steps, np.mean(chunks, 0))


def _step_run(setting: Setting, scheme: Scheme, before: int, after: int, steps: int) -> Run:
    world = setting.world(scheme, max(before, after))
    world.closed(before, BEFORE, setting.endless())
    world.leave(before)
    return world.closed(after, steps, setting.endless(1001))


def wrong_profile(setting: Setting, profile: Profile, batch: int, *, steps: int = 300, seeds: int = 8) -> Settling:
    """The controller starts with a profile that is not the machine's."""
    best = best_fixed(setting, batch)
    elastic, fixed, chunks = [], [], []
    for seed in range(seeds):
        one = replace(setting, seed=setting.seed + seed)
        wrong = replace(one, profile=profile)
        elastic.append(wrong.world(Scheme.elastic(), batch).closed(batch, steps, one.endless()))
        fixed.append(one.world(best, batch).closed(batch, steps, one.endless()))
        chunks.append([step.chunk for step in elastic[-1].steps])
    return _settling((batch, batch), best, elastic, fixed, steps, np.mean(chunks, 0))


def _settling(
    load: tuple[int, int], best: Scheme, elastic: list[Run], fixed: list[Run], steps: int, chunks: Floats
) -> Settling:
    # Windows that hold enough tokens for their noise to be well below the 5 % that are asked for.
    window = max(10, min(steps // 4, 3000 // (load[1] * len(elastic))))
    ratio = _rates(elastic, steps, window) / _rates(fixed, steps, window)
    late = np.flatnonzero(ratio < 0.95)
    settled = int(late[-1]) + 1 if len(late) else 0
    return Settling(load, best.name, tuple(ratio.tolist()), settled, tuple(chunks.tolist()))


def _rates(runs: list[Run], steps: int, window: int) -> Floats:
    """Tokens a second in the windows that begin at each of the last ``steps`` steps, over all runs."""
    tokens = np.sum([[step.tokens for step in run.steps[-steps:]] for run in runs], 0)
    seconds = np.sum([[step.seconds for step in run.steps[-steps:]] for run in runs], 0)
    ones = np.ones(window)
    return np.asarray(np.convolve(tokens, ones, "valid") / np.convolve(seconds, ones, "valid"))


def steeper(profile: Profile, factor: float) -> Profile:
    """A profile of the wrong shape: what more positions cost, times ``factor``; the first point stays."""
    floor = profile.seconds[0]
    return replace(profile, seconds=tuple(floor + (s - floor) * factor for s in profile.seconds))


def wrong_profiles(profile: Profile) -> dict[str, Profile]:
    """By name; the right one among them, since a controller that starts knows nothing of the yields either."""
    return {
        "right": profile,
        "times x 2": profile.scaled(2),
        "times / 2": profile.scaled(0.5),
        "slope x 2": steeper(profile, 2),
        "slope / 2": steeper(profile, 0.5),
    }
