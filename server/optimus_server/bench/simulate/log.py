"""``optimus bench simulate --from-log``: the requests of a server's log, served again by every scheme.

A logged request comes when it came and is as long as it was. What it commits is replayed from the recorded request
whose yield is nearest to its own, at about the chunk size it had.
"""

import numpy as np

from optimus_server.bench.simulate.recording import BLOCK, Recording
from optimus_server.bench.simulate.workload import aligned
from optimus_server.bench.simulate.world import Arrival
from optimus_server.errors import SettingsError
from optimus_server.store.queries import Log
from optimus_server.store.workload import Arrival as Logged, workload


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
