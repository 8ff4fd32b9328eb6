"""What a log tells a simulator: when requests came, how long they were, and how fast each could be decoded."""

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select

from optimus_server.store.queries import EVERYTHING, Filter, Log
from optimus_server.store.records import StepRecord
from optimus_server.store.steps import decode
from optimus_server.store.tables import Instance, Request, RequestSteps


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request that was answered.

    Attributes:
        at_s: since the first arrival.
        generated_tokens: the answer's length; ``max_new_tokens`` is what was allowed.
        yields: (masks, advance) of each step that offered masks: positions from the frontier to the end of the window,
            and by how much the frontier moved.
    """

    at_s: float
    prompt_tokens: int
    max_new_tokens: int
    generated_tokens: int
    policy: str
    yields: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Arrivals in order, and how often a mask committed by its offset from the frontier.

    Attributes:
        offered, committed: rows whose window reached so far, and those of them that committed there.
    """

    arrivals: tuple[Arrival, ...]
    offered: tuple[int, ...]
    committed: tuple[int, ...]


def workload(log: Log, which: Filter = EVERYTHING, *, newest: int = 100_000) -> Workload:
    """The answered requests among the newest; those without recorded steps have no yields."""
    query = (
        select(
            Request.created_us, Request.prompt_tokens, Request.max_new_tokens, Request.generated_tokens,
            Request.policy, Instance.logit_shift, RequestSteps.v, RequestSteps.data,
        )
        .join(Instance, Instance.id == Request.instance_id)
        .outerjoin(RequestSteps, RequestSteps.request_id == Request.id)
        .where(*which.conditions(), Request.status < 400, Request.generated_tokens > 0)
        .order_by(Request.created_us.desc())
        .limit(newest)
    )  # fmt: skip
    offered: dict[int, int] = defaultdict(int)
    committed: dict[int, int] = defaultdict(int)
    arrivals = []
    for row in log.rows(query):
        trace = decode(row["v"], row["data"]) if row["data"] else []
        yields = []
        for step in trace:
            if step.masks:
                window = _window(step, row["logit_shift"] or 0)
                yields.append((window, step.advance))
                for offset in range(window):
                    offered[offset] += 1
                for position in step.positions:
                    committed[position - step.frontier] += 1
        arrivals.append((row, tuple(yields)))
    first = arrivals[-1][0]["created_us"] if arrivals else 0
    reach = range(max(offered, default=-1) + 1)
    return Workload(
        tuple(
            Arrival(
                (row["created_us"] - first) / 1e6, row["prompt_tokens"] or 1,
                row["max_new_tokens"] or row["generated_tokens"], row["generated_tokens"],
                row["policy"] or "chunk", yields,
            )
            for row, yields in reversed(arrivals)
        ),
        tuple(offered[offset] for offset in reach),
        tuple(committed[offset] for offset in reach),
    )  # fmt: skip


def _window(step: StepRecord, shift: int) -> int:
    """Positions from the frontier on that the row could commit."""
    return max(step.stop + shift - step.frontier, *(position - step.frontier + 1 for position in step.positions), 0)
