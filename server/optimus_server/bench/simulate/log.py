"""``optimus bench simulate --from-log``: the requests of a server's log, served again by every scheme.

A logged request comes when it came and is as long as it was. What it commits is replayed from the recorded request
whose yield is nearest to its own, at about the chunk size it had.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimus_server.bench.simulate.recording import BLOCK, Recording
from optimus_server.bench.simulate.scenarios import Setting
from optimus_server.bench.simulate.workload import aligned
from optimus_server.bench.simulate.world import Arrival, Scheme, World
from optimus_server.errors import SettingsError
from optimus_server.store.queries import Log
from optimus_server.store.workload import Arrival as Logged, workload


@dataclass(frozen=True, slots=True)
class Served:
    """A log served by one scheme: medians and 90th percentiles in seconds, tokens a second from first to last."""

    scheme: str
    requests: int
    first_token_s: tuple[float, float]
    tpot_s: tuple[float, float]
    rate: float


def arrivals(place: str, recording: Recording, *, seed: int) -> list[Arrival]:
    """The answered requests of a log; those without recorded steps take after any recorded request.

    Raises:
        SettingsError: there is no such log, or nothing in it was answered.
    """
    with Log(place) as log:
        logged = workload(log).arrivals
    if not logged:
        raise SettingsError(f"{place} has no answered requests", param="from_log")
    rng, speeds = np.random.default_rng(seed), _speeds(recording)
    found = []
    for one in logged:
        source = _nearest(one, speeds) if one.yields else int(rng.integers(len(recording.tasks)))
        prompt = aligned(recording, one.prompt_tokens, source)
        found.append(Arrival(one.at_s, prompt, one.generated_tokens, source))
    return found


def _speeds(recording: Recording) -> dict[int, np.ndarray]:
    """By chunk size: tokens a step of every recorded request."""
    block, speeds = recording.block_size, {}
    for size, courses in recording.courses.items():
        if size != BLOCK:
            steps = [
                course.rank.reshape(-1, block).max(1).astype(int).sum() + len(course.rank) // block
                for course in courses
            ]
            speeds[size] = np.array([course.tokens for course in courses]) / np.array(steps)
    return speeds


def _nearest(logged: Logged, speeds: dict[int, np.ndarray]) -> int:
    masks, advances = np.mean(logged.yields, axis=0)
    size = min(speeds, key=lambda size: abs(size - masks))
    return int(np.abs(np.log(speeds[size] / max(advances, 0.1))).argmin())


def served(setting: Setting, scheme: Scheme, requests: Sequence[Arrival], *, rows: int, tpot_s: float) -> Served:
    """All of them, by one scheme, on a machine that runs up to ``rows`` at once."""
    room = sum(sorted((one.prompt + one.answer + 128 for one in requests), reverse=True)[:rows]) + 4096
    world = World(
        setting.recording, setting.table, scheme, profile=setting.profile, max_rows=rows, kv_tokens=room, tpot_s=tpot_s,
        seed=setting.seed,
    )  # fmt: skip
    run = world.open(requests)
    waits = [life.first - life.arrival.at for life in run.lives if life.first is not None]
    tpots = [life.tpot_s for life in run.lives]
    tokens = sum(life.tokens for life in run.lives)
    return Served(
        scheme.name, len(run.lives), (float(np.median(waits)), float(np.percentile(waits, 90))),
        (float(np.median(tpots)), float(np.percentile(tpots, 90))), tokens / (run.steps[-1].end - requests[0].at),
    )  # fmt: skip
