"""Answers to questions, on a log whose contents are known."""

import numpy as np
import pytest

from optimus_server.store.queries import Filter, Log
from tests.store.samples import HOUR_US, NOW_US, action, decision, load, recording, request, trace

START = NOW_US - NOW_US % HOUR_US


REFUSED = {
    "status": 429, "error_type": "overloaded", "finish_reason": None, "prompt": None, "trace": (),
    "generated_tokens": None, "steps": None, "computed_positions": None, "ttft_ms": None,
}  # fmt: skip


@pytest.fixture
def log(place):
    """Two hours of two clients: one request a minute that takes as many ms, every tenth of them refused."""
    with recording(place, log_text="full") as recorder:
        for minute in range(120):
            common = {"created_us": START + minute * 60 * 10**6, "client": "ab"[minute % 2], "total_ms": float(minute)}
            recorder.submit(request(minute, **common | (REFUSED if minute % 10 == 9 else {})))
    found = Log(place)
    yield found
    found.close()


def numbers(rows):
    return [int(row["request_id"].removeprefix("request-")) for row in rows]


def test_requests_come_newest_first_and_page_by_page(log):
    first = log.requests(limit=50)
    assert numbers(first) == list(range(119, 69, -1))
    second = log.requests(limit=50, before=first[-1]["id"])
    assert numbers(second) == list(range(69, 19, -1))
    assert numbers(log.requests(limit=50, before=second[-1]["id"])) == list(range(19, -1, -1))


def test_requests_of_one_microsecond_are_not_lost_between_pages(place):
    with recording(place) as recorder:
        for number in range(9):
            recorder.submit(request(number, created_us=NOW_US))
    log = Log(place)
    seen, before = [], None
    while page := log.requests(limit=2, before=before):
        seen += numbers(page)
        before = page[-1]["id"]
    assert sorted(seen) == list(range(9))
    log.close()


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (Filter(failed=True), list(range(9, 120, 10))),
        (Filter(status=429), list(range(9, 120, 10))),
        (Filter(client="b", min_ms=110), [111, 113, 115, 117, 119]),
        (Filter(since_us=START + 2 * 60 * 10**6, until_us=START + 4 * 60 * 10**6), [2, 3]),
        (Filter(endpoint="/nowhere"), []),
        (Filter(finish_reason="length", min_ms=117), [117, 118]),
    ],
)
def test_filters(log, which, expected):
    assert sorted(numbers(log.requests(which, limit=1000))) == expected


def test_a_request_is_found_by_either_name(log):
    found = log.request("request-3")
    assert log.request(found.request["id"]) == found
    assert found.steps == list(trace())
    assert (found.prompt, found.output, found.pieces, found.truncated) == ("prompt 3", "an answer", [2, 1, 6], False)
    assert found.instance["model_id"] == "org/model"
    assert log.request("request-9").steps == []
    assert log.request("request-9").prompt is None
    assert log.request("nobody") is None


def test_figures_by_hour(log):
    first, second = log.stats("hour")
    assert (first.key, second.key) == (START, START + HOUR_US)
    assert (first.requests, first.failed, first.cancelled) == (60, 6, 0)
    answered = [minute for minute in range(60, 120) if minute % 10 != 9]
    assert (second.total_p50, second.total_p95) == tuple(np.percentile(answered, (50, 95)))
    assert second.generated_tokens == 54 * 6
    assert (second.tokens_per_step, second.positions_per_token) == (2.0, 2.0)
    assert second.ttft_p50 == 10.0


def test_figures_by_client(log):
    assert [(group.key, group.requests, group.failed) for group in log.stats("client")] == [("a", 60, 0), ("b", 60, 12)]
    assert [group.requests for group in log.stats("client", Filter(since_us=START + HOUR_US))] == [30, 30]


def test_groups_without_a_key_come_last(log):
    assert [group.key for group in log.stats("error_type")] == ["overloaded", None]


def test_percentiles_of_very_many_come_from_a_sample(log, monkeypatch):
    monkeypatch.setattr("optimus_server.store.queries.SAMPLE", 12)
    (group,) = log.stats("endpoint")
    assert (group.requests, group.failed) == (120, 12)
    # Arrivals at whole minutes are multiples of any stride below 15, so all of them are in the sample.
    assert group.total_p50 == np.percentile([m for m in range(120) if m % 10 != 9], 50)


def test_figures_by_chunk(place):
    with recording(place) as recorder:
        recorder.submit(request(0, trace=trace(chunk=4)))
        recorder.submit(request(1, trace=trace(chunk=8) * 2))
    log = Log(place)
    small, large = log.chunks()
    assert (small.chunk, small.rows, small.committed, small.utilization) == (4, 3, 2.0, 0.5)
    assert (large.chunk, large.rows, large.committed, large.utilization) == (8, 6, 2.0, 0.25)
    assert (small.batch, small.step_ms) == (2.0, 4.5)
    assert [use.chunk for use in log.chunks(newest=1)] == [8]
    log.close()


def test_decisions(place):
    with recording(place) as recorder:
        for number in range(10):
            recorder.submit(decision(number, reason="load_up" if number < 3 else "hold", actual_ms=11.0))
    log = Log(place)
    assert [row["t_us"] for row in log.decisions(limit=3)] == [NOW_US + n * 10**6 for n in (9, 8, 7)]
    assert len(log.decisions(NOW_US + 2 * 10**6, NOW_US + 4 * 10**6)) == 2
    hold, up = log.reasons()
    assert (hold["reason"], hold["decisions"], up["decisions"]) == ("hold", 7, 3)
    assert hold["error"] == pytest.approx(0.1)
    log.close()


def test_load_is_averaged_to_a_number_of_points(place):
    with recording(place) as recorder:
        for number in range(100):
            recorder.submit(load(number, running=number))
    log = Log(place)
    points = log.load(NOW_US, NOW_US + 100 * 10**6, points=10)
    assert [point["t_us"] for point in points] == [NOW_US + n * 10**7 for n in range(10)]
    assert [float(point["running"]) for point in points] == [4.5 + 10 * n for n in range(10)]
    assert len(log.load(NOW_US, NOW_US + 50 * 10**6, points=1000)) == 50
    assert log.first_load(NOW_US + 1) == NOW_US + 10**6
    assert log.first_load(NOW_US + 100 * 10**6) is None
    log.close()


def test_what_operators_did_comes_newest_first_and_page_by_page(place):
    with recording(place) as recorder:
        for number in range(5):
            recorder.submit(action(number))
    log = Log(place)
    first = log.actions(limit=3)
    assert [row["detail"] for row in first] == ["chunk 4", "chunk 3", "chunk 2"]
    assert [row["detail"] for row in log.actions(limit=3, before=first[-1]["id"])] == ["chunk 1", "chunk 0"]
    assert (first[0]["t_us"], first[0]["action"], first[0]["address"]) == (NOW_US + 4 * 10**6, "set", "127.0.0.1")
    log.close()
