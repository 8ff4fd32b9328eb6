"""From traces to figures: latencies, throughput and goodput at one load."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimus_server.bench.trace import Trace


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles of a latency, in ms."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Spread | None":
        """None of nothing."""
        values = 1e3 * np.fromiter(seconds, float)
        return cls(float(values.mean()), *map(float, np.percentile(values, [50, 90, 99]))) if len(values) else None


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in ms that one request must keep to count as good; None is no limit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None

    def met(self, trace: Trace) -> bool:
        if trace.problem is not None:
            return False
        pairs = ((self.ttft, trace.ttft), (self.tpot, trace.tpot), (self.e2e, trace.e2e))
        return all(limit is None or value is None or 1e3 * value <= limit for limit, value in pairs)


@dataclass(frozen=True, slots=True)
class Point:
    """One load.

    Attributes:
        load: clients of a closed loop, or requests a second of an open one.
        seconds: the window in which throughput was counted: while the load was whole, not while it ran out.
        tokens_per_second, requests_per_second: delivered and completed in the window.
        goodput: completed in the window within the SLO, a second.
        attainment: share of all requests within the SLO; refused ones are not.
        tpot: time per token after the first delivery; per_token: whole time / all tokens.
        gap: between the deliveries of one stream.
        counted: what said how many tokens there were: usage, text, or events if any answer had no usage.
    """

    load: float
    requests: int
    refused: int
    seconds: float
    tokens_per_second: float
    requests_per_second: float
    goodput: float
    attainment: float
    tokens: int
    counted: str
    right: int
    judged: int
    ttft: Spread | None
    tpot: Spread | None
    per_token: Spread | None
    e2e: Spread | None
    gap: Spread | None
    client: dict[str, Any]


def summarise(traces: Sequence[Trace], load: float, slo: Slo, client: dict[str, Any], *, whole: bool = False) -> Point:
    """The figures of one load.

    Args:
        whole: count throughput to the last answer's end instead of the last request's beginning: for loads of so few
            requests that they never repeat.
    """
    done = [trace for trace in traces if trace.problem is None]
    begin = min(trace.due for trace in traces)
    stop = max(trace.end for trace in traces) if whole else max(trace.due for trace in traces)
    seconds = max(1e-9, stop - begin)
    inside = [trace for trace in done if trace.end <= stop]
    delivered = sum(tokens for trace in done for when, tokens in trace.deliveries if when <= stop)
    judged = [trace for trace in done if trace.question.scored]
    counted = {trace.counted for trace in done} or {"usage"}
    return Point(
        load=load,
        requests=len(traces),
        refused=sum(trace.refused for trace in traces),
        seconds=seconds,
        tokens_per_second=delivered / seconds,
        requests_per_second=len(inside) / seconds,
        goodput=sum(map(slo.met, inside)) / seconds,
        attainment=sum(map(slo.met, traces)) / len(traces),
        tokens=sum(trace.tokens for trace in done),
        counted="events" if "events" in counted else counted.pop(),
        right=sum(trace.question.accepts(trace.text) for trace in judged),
        judged=len(judged),
        ttft=Spread.of(trace.ttft for trace in done),
        tpot=Spread.of(trace.tpot for trace in done if trace.tpot is not None),
        per_token=Spread.of(trace.e2e / trace.tokens for trace in done if trace.tokens),
        e2e=Spread.of(trace.e2e for trace in done),
        gap=Spread.of(gap for trace in done for gap in trace.gaps),
        client=client,
    )
