import pytest

from optimus_server.bench.client import Recording
from optimus_server.bench.figures import Slo, Spread, summarise
from optimus_server.bench.questions import FileQuestion
from optimus_server.bench.trace import Trace


def trace(due, *deliveries, right=True, scored=True, refused=False):
    """Deliveries are (seconds after due, tokens)."""
    question = FileQuestion("t", "p", "answers" if scored else None, ("yes",))
    recording = Recording(question, due, due)
    recording.pieces += [(due + after, b"") for after, _ in deliveries]
    if refused:
        return Trace(recording, "HTTP 429", refused=True)
    return Trace(
        recording,
        deliveries=tuple((due + after, tokens) for after, tokens in deliveries),
        tokens=sum(tokens for _, tokens in deliveries),
        text="yes" if right else "no",
    )


# two clients that begin at 100.0, the second of which asks once more at 104.0
TRACES = [
    trace(100.0, (1.0, 2.0), (3.0, 4.0), (8.0, 5.0)),
    trace(100.0, (2.0, 4.0), (4.0, 2.0)),
    trace(104.0, (1.0, 8.0), right=False),
]


def test_figures_of_a_load():
    point = summarise(TRACES, 2, Slo(tpot=990.0), {})
    assert (point.load, point.requests, point.refused, point.seconds) == (2, 3, 0, 4.0)
    # until 104: 6 tokens of the first, 6 of the second, none of the third; only the second has ended
    assert point.tokens_per_second == 3.0
    assert point.requests_per_second == 0.25
    assert point.tokens == 25
    assert (point.right, point.judged) == (2, 3)
    assert point.ttft.mean == pytest.approx(4000 / 3)
    assert point.ttft.p50 == 1000
    assert point.tpot.mean == pytest.approx((7000 / 9 + 1000) / 2)
    assert point.per_token.p50 == pytest.approx(4000 / 6)
    assert point.e2e.p50 == 4000
    assert point.gap.mean == 3000
    # the second is too slow; the third came at once
    assert point.attainment == pytest.approx(2 / 3)
    assert point.goodput == 0


def test_the_whole_time_of_a_load_that_never_repeats():
    point = summarise(TRACES, 3, Slo(), {}, whole=True)
    assert point.seconds == 8.0
    assert point.tokens_per_second == 25 / 8
    assert point.requests_per_second == point.goodput == 3 / 8


def test_refused_requests_count_against_the_slo_only():
    refused = trace(101.0, refused=True)
    point = summarise([*TRACES, refused], 2, Slo(), {})
    assert point.refused == 1
    assert point.attainment == 0.75
    assert point.tokens == 25
    assert point.e2e.p50 == 4000


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(), True),
        (Slo(ttft=1000), True),
        (Slo(ttft=999), False),
        (Slo(tpot=778), True),
        (Slo(tpot=777), False),
        (Slo(e2e=8000), True),
        (Slo(ttft=1000, e2e=7999), False),
    ],
)
def test_slo(slo, good):
    assert slo.met(TRACES[0]) is good


def test_spread_is_in_milliseconds():
    spread = Spread.of(i / 1000 for i in range(101))
    assert (spread.mean, spread.p50, spread.p90, spread.p99) == pytest.approx((50, 50, 90, 99))
    assert Spread.of([]) is None
