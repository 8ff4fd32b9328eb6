"""What the live page's numbers are made of, against figures that were worked out by hand or by other means."""

import statistics

import pytest

from optimus_server.api.admin.cells import BARS, CELL, ENOUGH, LEVELS, MINUTES, StepTimes, Yields, bounds, bucket
from optimus_server.api.admin.figures import Ends, Steps
from optimus_server.api.admin.running import CELLS, SHOWN, Requests
from optimus_server.api.ledger import LEFT
from optimus_server.engine.telemetry import Decision, RowTrace, StepTrace

NOW = 1_800_000_000.0


def step(number=1, *, at=NOW, took=0.010, predicted=0.008, chunk=4, rows=2, prefill=0, told=()):
    decision = Decision(
        chunk=chunk, smallest=chunk, largest=chunk, reason="hold", rows=rows, waiting=0, kv_used=0.5,
        positions=chunk * rows, prefill=prefill, kv_tokens=9, expected_commits=2.0, predicted_s=predicted,
    )  # fmt: skip
    return StepTrace(number, at, took, decision, tuple(told))


def row(name="mine", *, start=10, stop=14, chunk=4, masks=4, commits=(), frontier=10, number=1):
    return RowTrace(name, number, start, stop, chunk, masks, tuple((at, 7, 0.9) for at in commits), frontier, 0)


def test_buckets_double():
    assert [bucket(size) for size in (1, 2, 3, 4, 5, 8, 9, 256)] == [0, 1, 2, 2, 3, 3, 4, 8]
    for number in range(9):
        low, high = bounds(number)
        assert {bucket(size) for size in range(low, high + 1)} == {number}
        assert bucket(high + 1) == number + 1


def test_step_times_are_medians_of_the_last_steps_of_a_cell():
    times = StepTimes()
    took = [0.001 * (1 + i % 7) for i in range(3 * CELL)]
    for seconds in took:
        times.add(step(took=seconds, predicted=0.004, chunk=5, rows=3))
    times.add(step(took=9.0, chunk=5, rows=3, prefill=16))
    times.add(step(took=9.0, chunk=0, rows=3))
    [cell] = times.table()
    assert (cell["chunk"], cell["batch"], cell["steps"]) == ((5, 8), (3, 4), CELL)
    assert cell["observed_ms"] == pytest.approx(1e3 * statistics.median(took[-CELL:]))
    assert cell["predicted_ms"] == pytest.approx(4.0)
    assert cell["off"] == pytest.approx(statistics.median(took[-CELL:]) / 0.004 - 1, abs=1e-3)


def test_few_steps_say_nothing_of_the_prediction():
    times = StepTimes()
    for _ in range(ENOUGH - 1):
        times.add(step())
    assert times.table()[0]["off"] is None
    times.add(step())
    assert times.table()[0]["off"] == pytest.approx(0.25)


def test_shades_are_equal_ratios_of_time():
    times = StepTimes()
    for exponent in range(LEVELS):
        times.add(step(took=0.001 * 2**exponent, chunk=2**exponent))
    assert [cell["level"] for cell in times.table()] == list(range(LEVELS))


def test_commits_by_chunk():
    yields = Yields()
    commits = [(), (10,), (10, 11), (10, 11, 12), (10, 11, 12, 13)]
    yields.add(NOW, tuple(row(commits=some) for some in commits))
    yields.add(NOW, (row(chunk=1, stop=11, commits=(10,)), row(masks=0, chunk=0)))
    one, four = yields.table(NOW)
    assert (one["chunk"], one["rows"], one["commits"], one["efficiency"]) == ((1, 1), 1, 1.0, 1.0)
    assert (four["chunk"], four["rows"], four["commits"], four["efficiency"]) == ((3, 4), 5, 2.0, 0.5)
    assert four["bars"] == [0.2, 0.2, 0.2, 0.4] + [0] * (BARS - 4)
    many = tuple(range(10, 74))
    yields.add(NOW, (row(chunk=64, stop=74, commits=many),))
    assert yields.table(NOW)[-1]["bars"][-1] == 1


def test_commits_are_forgotten_minute_by_minute():
    yields = Yields()
    for minute in range(2 * MINUTES):
        yields.add(NOW + 60 * minute, (row(commits=(10,)),))
    now = NOW + 60 * (2 * MINUTES - 1)
    assert yields.table(now)[0]["rows"] == MINUTES
    assert yields.table(now + 60)[0]["rows"] == MINUTES - 1
    assert yields.table(now + 3600) == []


def test_figures_of_steps_are_those_of_ten_seconds():
    steps = Steps(NOW - 100)
    steps.add(step(at=NOW - 11, took=5.0))
    for i in range(100):
        steps.add(step(at=NOW - 5, took=0.001 * (i + 1), predicted=0.010, told=[row(commits=(10, 11, 12))]))
    found = steps.figures(NOW)
    assert (found["step_p50_ms"], found["step_p95_ms"], found["predicted_p50_ms"]) == (50.0, 95.0, 10.0)
    assert found["step_off_percent"] == 405
    assert (found["tokens_s"], found["tokens_step"], found["chunk"]) == (30.0, 1.5, 4)
    idle = steps.figures(NOW + 60)
    assert (idle["tokens_s"], idle["tokens_step"], idle["step_p50_ms"], idle["chunk"]) == (0.0, None, None, None)


def test_a_young_server_s_rate_is_not_thinned():
    steps = Steps(NOW - 2)
    steps.add(step(at=NOW - 1, told=[row(commits=(10, 11))]))
    assert steps.figures(NOW)["tokens_s"] == 1.0


def test_figures_of_requests_are_those_of_five_minutes():
    ends = Ends()
    ends.ended({"at": NOW - 301, "outcome": "engine_stopped", "ttft_ms": 9000.0})
    for i in range(20):
        ends.ended({"at": NOW - 10, "outcome": ("length", "cancelled", LEFT)[i % 3], "ttft_ms": float(i)})
    ends.ended({"at": NOW - 9, "outcome": "timeout", "ttft_ms": None})
    for status in (422, 429, 503):
        ends.refused({"at": NOW - 8, "status": status})
    found = ends.figures(NOW)
    assert (found["ended"], found["refused"], found["failed"]) == (24, 2, 2)
    assert (found["ttft_p50_ms"], found["ttft_p95_ms"]) == (9.0, 18.0)


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def requests():
    found = Requests(8, Clock())
    found.began({"request_id": "mine", "at": NOW, "path": "/generate", "prompt_tokens": 6, "max_new_tokens": 20})
    return found


def test_the_mask_bar_shows_what_is_sent_held_fresh_computed_and_masked(requests):
    requests.look()
    requests.stepped(step(told=[row(start=8, stop=14, commits=(12,), frontier=8)]))
    [shown] = requests.shown()
    assert shown["cells"] == "ccccfc" + "m" * 12 + "." * (CELLS - 18)
    requests.stepped(step(told=[row(start=8, stop=14, commits=(8, 9), frontier=10, number=2)]))
    [shown] = requests.shown()
    assert shown["cells"] == "ffcchc" + "m" * 12 + "." * (CELLS - 18)
    assert (shown["done"], shown["max"], shown["steps"], shown["state"]) == (4, 20, 2, "decode")
    # The frontier passes what was held.
    requests.stepped(step(told=[row(start=10, stop=14, commits=(10, 11), frontier=13, number=3)]))
    assert requests.shown()[0]["cells"] == "ssffsc" + "m" * 12 + "." * (CELLS - 18)


def test_prompt_in_the_block_is_shown_as_prompt(requests):
    requests.look()
    requests.stepped(step(told=[row(start=4, stop=8, commits=(6,), frontier=7)]))
    assert requests.shown()[0]["cells"].startswith("pppppp" + "f" + "c")


def test_single_positions_are_not_followed_while_nobody_looks(requests):
    requests.stepped(step(told=[row(start=8, stop=12, commits=(9,), frontier=8)]))
    assert requests.shown()[0]["cells"].startswith("cccc")


def test_a_request_waits_then_computes_its_prompt(requests):
    assert (requests.shown()[0]["state"], requests.shown()[0]["cells"]) == ("queue", "")
    requests.stepped(step(told=[row(start=0, stop=4, masks=0, frontier=6, number=0)]))
    assert requests.shown()[0]["state"] == "prefill"
    requests.ended("mine")
    assert requests.shown() == []


def test_of_very_many_the_oldest_are_shown():
    requests = Requests(8, Clock())
    for number in range(1000):
        event = {"request_id": str(number), "at": NOW, "path": "/", "prompt_tokens": 1, "max_new_tokens": 4}
        requests.began(event)
    assert [one["id"] for one in requests.shown()] == [str(number) for number in range(SHOWN)]
    assert "999" in requests
