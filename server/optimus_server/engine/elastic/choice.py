"""What the controller is asked before a step, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from optimus_server.engine.request import Request
from optimus_server.engine.telemetry import Reason


@dataclass(frozen=True, slots=True)
class Situation:
    """What a step has to do.

    Attributes:
        rows: requests that decode and leave their chunk size to the controller.
        joining: requests of that kind that end their prompt in this step.
        fixed: positions of rows whose chunk size is fixed.
        fixed_rows: how many those are.
        prefill: positions of prompt that wait to be computed.
        kv_tokens: KV tokens that all these rows read.
        ahead: whether the step before is under way. Rows are not known then, and the longest of them finds room.
        present: share of their positions that are there after all: one step ahead, some have ended.
    """

    rows: Sequence[Request]
    joining: int
    fixed: int
    fixed_rows: int
    prefill: int
    kv_tokens: int
    ahead: bool = False
    present: float = 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """Chunk sizes for the rows of a situation, in their order, and the prompt positions that may join them."""

    chunks: tuple[int, ...]
    typical: int
    reason: Reason
    prefill: int
    expected_commits: float
