"""What the device knows about running requests, so that a step follows the one before without asking the host.

Every running request has a slot. Its tokens and lengths stay on the device from step to step: ``lay_out`` makes rows
from them, ``unmask`` moves them on. The host says what it alone knows (``Turns``): whose turn it is, how large the
chunk, where the pages are.
"""

from dataclasses import dataclass

from torch import Tensor

CACHED, EXACT, DRAWN, FRONTIER, STEPS, DONE = range(6)
"""Columns of ``Slots.lengths``."""

SLOT, CHUNK, ELASTIC, CUT, KNOWN, END, CANVAS, POLICY, RULE, TRANSFER = range(10)
"""Rows of ``Turns.fields``."""

POLICIES = WHOLE_BLOCK, IN_BLOCK, REFRESH, STALE, STREAM = range(5)
RULES = DYNAMIC, STATIC, SEQUENTIAL, ENTROPY = range(4)

STOPS = 4
"""Stop ids that the device knows of a request. Who has more may be computed once more than needed."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The memory of requests.

    Attributes:
        tokens: int32 ``[slots, canvas]``; -1 is a mask.
        lengths: int32 ``[slots, 6]``: ``cached``, ``exact``, ``drawn`` and ``frontier`` as in the engine's requests,
            steps after prefill, and whether the answer has ended.
    """

    tokens: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Turns:
    """The host's part of a step of ``r`` rows.

    Attributes:
        fields: int32 ``[10, r]``: slot; chunk size, and whether it grows with what is pending; where a row of prompt is
            cut, or -1; length known at admission, first position never sent, canvas; policy; rule of unmasking and
            how many it transfers.
        limits: float64 ``[2, r]``: threshold and entropy bound.
        stops: int32 ``[r, STOPS]``, token ids that end an answer, -1 where there are fewer.
        tables: int32 ``[r, pages]``, page ids in order of position, of all that a row may reach.
    """

    fields: Tensor
    limits: Tensor
    stops: Tensor
    tables: Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """What has become of the turns of a step that has room for ``m`` masks.

    Attributes:
        starts, stops: int32 ``[r]``; equal where a request had ended, or found no room.
        bounds: int32 ``[r + 1]``, where each row's masks begin among the ``m``; they stand at the row's frontier and
            the positions behind it.
        predictors: int64 ``[m]``, which of the step's positions has the output that predicts each.
        positions: int32 ``[m]``, where they are; -1 for a place that holds no mask that could be predicted.
        owner: int64 ``[m]``, the row of each.
    """

    starts: Tensor
    stops: Tensor
    bounds: Tensor
    predictors: Tensor
    positions: Tensor
    owner: Tensor
