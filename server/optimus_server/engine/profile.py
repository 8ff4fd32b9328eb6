"""Measures T(n, k) of a model on the device it runs on, and keeps the result for the next start."""

import hashlib
import json
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from optimus_server import __version__
from optimus_server.engine.elastic.latency import Profile, monotone
from optimus_server.engine.request import Params, Request
from optimus_server.engine.runner import Runner
from optimus_server.engine.step import Row, Step, Turn
from optimus_server.engine.telemetry import Decision

logger = logging.getLogger(__name__)

KNOTS = (1, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
WIDTH = 8
# Slow steps need no median of three.
REPEATS, LONG_ENOUGH_S = 3, 0.4
# What a profile may take; what lies beyond is extrapolated from the last two knots.
BUDGET_S, SLOW_STEP_S = 30.0, 2.0
CONTEXT = 1024
# A synthetic step may be repeated so often.
MOST = 40

_NO_DECISION = Decision(
    chunk=0, smallest=0, largest=0, reason="idle", rows=0, waiting=0, kv_used=0.0, positions=0, prefill=0, kv_tokens=0,
    expected_commits=0.0, predicted_s=0.0,
)  # fmt: skip


def key(runner: Runner) -> dict[str, Any]:
    """What a profile holds for: a change in any of these makes it stale."""
    device = runner.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    model = hashlib.sha256(json.dumps(asdict(runner.config), default=sorted, sort_keys=True).encode()).hexdigest()[:16]
    return {
        "device": name,
        "model": model,
        "dtype": str(runner.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "rooms": list(_rooms(runner)),
        "optimus": __version__,
    }


def load(directory: Path, runner: Runner) -> Profile | None:
    """The stored profile, if there is a valid one for this model on this device."""
    try:
        stored = json.loads(_path(directory, runner).read_text())
        return Profile.from_json(stored) if stored.get("key") == key(runner) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save(directory: Path, runner: Runner, profile: Profile) -> None:
    """Store for ``load``; a directory that cannot be written is logged, not an error."""
    path = _path(directory, runner)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"key": key(runner)} | profile.to_json(), indent=1) + "\n")
        partial.replace(path)
    except OSError as error:
        logger.warning("The latency profile was not stored: %s", error)


def measure(runner: Runner, *, max_positions: int, progress: Callable[[float], None] = lambda share: None) -> Profile:
    """Time steps of growing size, or of all rooms that steps are padded to, then one with context.

    Args:
        runner: its KV memory is overwritten, so nothing may be in it yet.
        max_positions: the largest step the engine will make.
        progress: told the share that is done.
    """
    rooms = _rooms(runner)
    padded_to = max(rooms, default=0)
    beyond = {n for n in KNOTS if padded_to < n < max_positions} | {max(padded_to, min(max_positions, KNOTS[-1]))}
    knots = sorted({*rooms, *beyond})
    seconds: list[float] = []
    began = time.perf_counter()
    for number, n in enumerate(knots):
        seconds.append(_time(runner, n, 0))
        progress((number + 1) / (len(knots) + 1))
        if seconds[-1] > SLOW_STEP_S or time.perf_counter() - began > BUDGET_S:
            break
    knots = knots[: len(seconds)]
    n = max(k for k in knots if k <= 256)
    rows = -(-n // WIDTH)
    longer = _time(runner, n, CONTEXT) - seconds[knots.index(n)]
    progress(1.0)
    price = max(0.0, longer / (rows * CONTEXT))
    return Profile(tuple(knots), tuple(monotone(seconds)), price, min(padded_to, knots[-1]))


def _rooms(runner: Runner) -> tuple[int, ...]:
    """What steps are padded to."""
    return tuple(runner.graphs.positions) if runner.graphs else ()


def _time(runner: Runner, positions: int, context: int) -> float:
    """Median time of a step of ``positions`` in rows of ``WIDTH``, each with ``context`` tokens of KV."""
    step = synthetic(runner, positions, context, WIDTH)
    times: list[float] = []
    for seconds in islice(periods(runner, step), 1, 1 + REPEATS):
        times.append(seconds)
        if sum(times) > LONG_ENOUGH_S:
            break
    return statistics.median(times)


def periods(runner: Runner, step: Step) -> Iterator[float]:
    """Repeat a synthetic step; seconds from one result to the next, the first of which is longer.

    On a GPU each is launched while the one before is under way, as the engine does. The rows move on by one position a
    step, up to ``MOST`` steps.
    """
    landed = time.perf_counter()
    under_way = deque([runner.launch(step)])
    for turn in step.turns:
        turn.fresh = False
    for _ in range(MOST):
        if runner.ahead:
            under_way.append(runner.launch(step))
        under_way.popleft()()
        before, landed = landed, time.perf_counter()
        yield landed - before
        if not runner.ahead:
            under_way.append(runner.launch(step))


def synthetic(runner: Runner, positions: int, context: int, width: int) -> Step:
    """A step of ``positions`` in rows of ``width``, each with about ``context`` tokens of KV; nobody asked for it."""
    turns, tables = zip(*_turns(runner, positions, context, width), strict=True)
    return Step(turns, tables, _NO_DECISION, positions, positions)


def _turns(runner: Runner, positions: int, context: int, widest: int) -> Iterator[tuple[Turn, list[int]]]:
    config, page = runner.config, runner.page_size
    block, shift = config.block_size, config.logit_shift
    room = 2 * MOST + widest
    known = max(1, min(context, config.max_position_embeddings - 2 * block - room) // block * block)
    pages = -(-(known + room) // page)
    # An autoregressive row is one position wide.
    widest = widest if block > 1 else 1
    for number, first in enumerate(range(0, positions, widest)):
        width = min(widest, positions - first)
        # Nothing is above this threshold, so one token commits each time; no row ends at a block.
        params = Params(max_new_tokens=room, chunk=width, policy="stream", threshold=1.0)
        request = Request(f"{number}", (1,) * known, params, block_size=block, shift=shift)
        request.cached = known - shift
        row = Row(request, request.cached, request.cached + width, request.cached + width + MOST)
        # Rows may meet in the same pages when there are few: nobody reads what they write.
        table = [(number * pages + i) % runner.pages for i in range(pages)]
        yield Turn(row, number, width, outlook=None, prompt=False, fresh=True), table


def _path(directory: Path, runner: Runner) -> Path:
    digest = hashlib.sha256(json.dumps(key(runner), sort_keys=True).encode()).hexdigest()[:16]
    return directory / "profiles" / f"{digest}.json"
