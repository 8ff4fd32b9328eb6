"""The requests that run, and what of each answer is committed, held, being computed and masked."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from optimus_server.engine.telemetry import RowTrace, StepTrace

SHOWN = 64
"""Requests shown; of more the oldest."""
CELLS = 32
"""Positions of a mask bar, at least; all of a block if that is longer, up to twice as many."""
WATCHED_S = 15.0
"""Single positions are followed so long after somebody has looked; a page without scripts comes back sooner."""


@dataclass(slots=True)
class Running:
    """One request.

    Attributes:
        at: when its prompt was valid.
        row: its part of the last step that had it.
        fresh: positions which that step committed.
        held: committed positions from the frontier on.
    """

    at: float
    path: str
    prompt_tokens: int
    max_new_tokens: int
    row: RowTrace | None = None
    fresh: frozenset[int] = frozenset()
    held: set[int] = field(default_factory=set)


class Requests:
    """Touched by the event loop only."""

    def __init__(self, block_size: int, clock: Callable[[], float] = time.time) -> None:
        self._block = block_size
        self._cells = min(2 * CELLS, max(CELLS, block_size))
        self._clock = clock
        self._watched_until = 0.0
        self._followed: frozenset[str] = frozenset()
        self._all: dict[str, Running] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._all

    def began(self, event: dict[str, Any]) -> None:
        self._all[event["request_id"]] = Running(
            event["at"], event["path"], event["prompt_tokens"], event["max_new_tokens"]
        )

    def ended(self, request_id: str) -> None:
        self._all.pop(request_id, None)

    def look(self) -> None:
        """Somebody does: follow single positions for a while."""
        self._watched_until = self._clock() + WATCHED_S
        self._followed = frozenset(list(self._all)[:SHOWN])

    def stepped(self, trace: StepTrace) -> None:
        watched = trace.at < self._watched_until
        for row in trace.rows:
            if running := self._all.get(row.request_id):
                running.row = row
                if watched and row.request_id in self._followed:
                    running.fresh = frozenset(position for position, _, _ in row.commits)
                    running.held = {at for at in running.held | running.fresh if at >= row.frontier}

    def shown(self) -> list[dict[str, Any]]:
        """Those that have run longest; positions are counted from the beginning of the answer."""
        now, found = self._clock(), []
        for request_id, running in list(self._all.items())[:SHOWN]:
            row, age = running.row, max(0.0, now - running.at)
            done = min(running.max_new_tokens, max(0, row.frontier - running.prompt_tokens)) if row else 0
            found.append(
                {
                    "id": request_id, "path": running.path, "age_s": round(age, 1), "prompt": running.prompt_tokens,
                    "max": running.max_new_tokens, "done": done, "chunk": row.chunk if row else None,
                    "state": "queue" if not row else "decode" if row.step else "prefill",
                    "steps": row.step if row else 0, "tokens_s": round(done / age, 1) if age > 0.2 else None,
                    "cells": self._bar(running, row) if row else "",
                }
            )  # fmt: skip
        return found

    def _bar(self, running: Running, row: RowTrace) -> str:
        """The block that is being decoded and what follows it, a letter a position.

        ``p`` prompt, ``s`` sent, ``f`` committed in the last step, ``h`` held behind the frontier, ``c`` computed in
        the last step but still masked, ``m`` masked, ``.`` beyond the answer's longest end.
        """
        first = row.frontier // self._block * self._block
        end = running.prompt_tokens + running.max_new_tokens
        letters = []
        for at in range(first, first + self._cells):
            if at < running.prompt_tokens:
                letters.append("p")
            elif at >= end:
                letters.append(".")
            elif at in running.fresh:
                letters.append("f")
            elif at < row.frontier:
                letters.append("s")
            elif at in running.held:
                letters.append("h")
            else:
                letters.append("c" if row.start <= at < row.stop else "m")
        return "".join(letters)
