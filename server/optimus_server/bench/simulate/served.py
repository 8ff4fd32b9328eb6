"""Given requests, served once by each scheme: ``--rate`` and ``--from-log``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimus_server.bench.simulate.scenarios import Setting
from optimus_server.bench.simulate.world import Arrival, Scheme, World


@dataclass(frozen=True, slots=True)
class Served:
    """Requests as one scheme served them.

    Attributes:
        first_token_s, tpot_s: median and 90th percentile.
        rate: tokens a second from first to last.
        steps, rows: of the simulation; the sum over its steps, and the most in one.
        took_s: what the simulation itself took.
    """

    scheme: str
    requests: int
    first_token_s: tuple[float, float]
    tpot_s: tuple[float, float]
    rate: float
    steps: int
    rows: int
    most_rows: int
    took_s: float


def served(setting: Setting, scheme: Scheme, requests: Sequence[Arrival], *, rows: int, tpot_s: float) -> Served:
    """All of them, by one scheme, on a machine that runs up to ``rows`` at once."""
    began = time.perf_counter()
    room = sum(sorted((one.prompt + one.answer + 128 for one in requests), reverse=True)[:rows]) + 4096
    world = World(
        setting.recording, setting.table, scheme, profile=setting.profile, max_rows=rows, kv_tokens=room, tpot_s=tpot_s,
        ahead=setting.ahead, seed=setting.seed,
    )  # fmt: skip
    run = world.open(requests)
    waits = [life.first - life.arrival.at for life in run.lives if life.first is not None]
    tpots = [life.tpot_s for life in run.lives]
    tokens = sum(life.tokens for life in run.lives)
    decoding = [step.rows for step in run.steps]
    return Served(
        scheme=scheme.name,
        requests=len(run.lives),
        first_token_s=(float(np.median(waits)), float(np.percentile(waits, 90))),
        tpot_s=(float(np.median(tpots)), float(np.percentile(tpots, 90))),
        rate=tokens / (run.steps[-1].end - requests[0].at),
        steps=len(decoding),
        rows=sum(decoding),
        most_rows=max(decoding),
        took_s=time.perf_counter() - began,
    )
