"""The steps of a request as one blob.

Version 1 is zlib of a JSON object of columns, one list each; without this module it is read by
``json.loads(zlib.decompress(data))``. ``width`` is ``stop - start``, ``known`` is ``frontier - start``. ``committed``
says how many positions each step committed; ``at`` has these of all steps one after the other, each less its row's
start, and ``sure`` how sure the model was of them, in percent. ``reason`` holds indices into ``reasons``.
"""

import zlib
from collections.abc import Sequence
from itertools import chain, islice
from operator import sub

from pydantic_core import from_json, to_json

from optimus_server.store.records import StepRecord

VERSION = 1


def encode(steps: Sequence[StepRecord]) -> bytes:
    # Column by column: attribute by attribute takes twice as long.
    t_ms, start, stop, chunk, frontier, masks, advance, positions, percents, batch, queue, step_ms, reason = (
        zip(*steps, strict=True) if steps else ((),) * len(StepRecord._fields)
    )
    reasons = sorted(set(reason))
    columns = {
        "t": [round(t, 1) for t in t_ms],
        "start": start,
        "width": list(map(sub, stop, start)),
        "chunk": chunk,
        "known": list(map(sub, frontier, start)),
        "masks": masks,
        "advance": advance,
        "committed": list(map(len, positions)),
        "at": [position - first for first, committed in zip(start, positions, strict=True) for position in committed],
        "sure": list(chain.from_iterable(percents)),
        "batch": batch,
        "queue": queue,
        "ms": [round(ms, 2) for ms in step_ms],
        "reason": list(map(reasons.index, reason)),
        "reasons": reasons,
    }
    # Level 1: the steps of an ordinary request take some hundred bytes at any level, and a busy server writes many.
    return zlib.compress(to_json(columns), level=1)


def decode(version: int, data: bytes) -> list[StepRecord]:
    """The steps of a blob.

    Raises:
        ValueError: a version that this code does not know.
    """
    if version != VERSION:
        raise ValueError(f"steps of version {version}; this code reads version {VERSION}")
    c = from_json(zlib.decompress(data))
    at, sure = iter(c["at"]), iter(c["sure"])
    return [
        StepRecord(
            t_ms=c["t"][i],
            start=start,
            stop=start + c["width"][i],
            chunk=c["chunk"][i],
            frontier=start + c["known"][i],
            masks=c["masks"][i],
            advance=c["advance"][i],
            positions=tuple(start + offset for offset in islice(at, c["committed"][i])),
            percents=tuple(islice(sure, c["committed"][i])),
            batch=c["batch"][i],
            queue=c["queue"][i],
            step_ms=c["ms"][i],
            reason=c["reasons"][c["reason"][i]],
        )
        for i, start in enumerate(c["start"])
    ]
