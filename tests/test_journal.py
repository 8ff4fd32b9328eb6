"""Steps find their requests; decisions and load are sampled."""

import pytest

from optimus_server.engine.telemetry import Decision, Feed, Load, RowTrace, StepTrace
from optimus_server.journal import ONE_IN, UNREAD_STEPS, Journal
from optimus_server.store.records import DecisionRecord, LoadRecord, RequestRecord

START = 1_700_000_000.0


class Recorder:
    """Keeps what it is told."""

    def __init__(self):
        self.records = []
        self.lost = 0

    def lose(self, count):
        self.lost += count

    def submit(self, record):
        self.records.append(record)
        return True

    def of(self, kind):
        return [record for record in self.records if isinstance(record, kind)]


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


class Scene:
    """An engine that does what it is told, and the journal that listens to it."""

    def __init__(self):
        self.recorder, self.feed, self.clock = Recorder(), Feed(), Clock()
        self.load = Load(0, 0, 100, 100)
        self.journal = Journal(self.recorder, self.feed, lambda: self.load, self.clock)
        self.number = 0

    def step(self, *rows, chunk=8, reason="hold", deciding=None):
        self.number += 1
        deciding = len(rows) if deciding is None else deciding
        decision = Decision(
            chunk=chunk if deciding else 0, smallest=4, largest=chunk, reason=reason, rows=deciding, waiting=2,
            kv_used=0.25, positions=16, prefill=0, kv_tokens=64, expected_commits=3.5, predicted_s=0.010,
        )  # fmt: skip
        self.feed.publish(StepTrace(self.number, self.clock.now, 0.012, decision, rows))


def row(request_id="a", *, masks=4, frontier=12, advance=2):
    return RowTrace(request_id, 1, 9, 17, 8, masks, ((10, 5, 0.994), (11, 6, 0.5)), frontier, advance)


def record(**changes):
    fields = {"request_id": "x", "created_us": int(START * 1e6), "endpoint": "/", "status": 200, "total_ms": 1.0}
    return RequestRecord(**fields | changes)


@pytest.fixture
def scene():
    return Scene()


def test_a_request_gets_its_own_steps(scene):
    scene.journal.expect("a", START)
    scene.clock.now += 0.5
    scene.step(row("a"), row("b"))
    scene.step(row("b"))
    scene.journal.end("a", record())
    (found,) = scene.recorder.of(RequestRecord)
    (step,) = found.trace
    assert (step.start, step.stop, step.chunk, step.frontier, step.advance, step.masks) == (9, 17, 8, 10, 2, 4)
    assert (step.positions, step.percents) == ((10, 11), (99, 50))
    assert (step.batch, step.queue, step.reason) == (2, 2, "hold")
    assert step.t_ms == pytest.approx(512, abs=0.01)
    assert step.step_ms == pytest.approx(12)


def test_steps_of_requests_that_nobody_expects_are_not_kept(scene):
    scene.step(row("secret"))
    scene.journal.drain()
    assert scene.journal._steps == {}
    scene.journal.end("never seen", record())
    assert scene.recorder.of(RequestRecord)[0].trace == ()


def test_an_ended_request_is_forgotten(scene):
    scene.journal.expect("a", START)
    scene.journal.end("a", record())
    scene.step(row("a"))
    scene.journal.drain()
    assert scene.journal._steps == {}


def test_steps_that_come_too_fast_are_counted(scene, monkeypatch):
    for _ in range(UNREAD_STEPS + 7):
        scene.step()
    scene.journal.drain()
    scene.journal.drain()
    assert scene.recorder.lost == 7


def test_decisions_are_recorded_when_the_chunk_changes_and_now_and_then(scene):
    for chunk, reason in ((8, "hold"), (8, "hold"), (4, "load_up"), (4, "hold")):
        scene.step(row(), chunk=chunk, reason=reason)
    scene.step(row(), deciding=0)
    for _ in range(2 * ONE_IN):
        scene.step(row(), chunk=4)
    scene.journal.drain()
    found = scene.recorder.of(DecisionRecord)
    assert [(d.chunk_old, d.chunk_new, d.reason) for d in found[:2]] == [(8, 8, "hold"), (8, 4, "load_up")]
    assert len(found) == 4
    first = found[0]
    assert (first.batch, first.queue, first.kv, first.commits, first.expected_commits) == (1, 2, 0.25, 2, 3.5)
    assert (first.predicted_ms, first.actual_ms) == (10.0, 12.0)
    assert first.t_us == START * 1e6


def test_load_is_what_has_happened_since_the_last_sample(scene):
    scene.load = Load(3, 1, 25, 100)
    for width in (1, 2, 3):
        scene.step(*[row()] * width)
    scene.journal.drain()
    scene.clock.now += 2.0
    scene.journal.sample()
    (sample,) = scene.recorder.of(LoadRecord)
    assert (sample.running, sample.waiting, sample.kv) == (3, 1, 0.75)
    assert (sample.batch, sample.tok_s, sample.chunk_p50) == (2.0, 6.0, 8)
    assert sample.step_ms_p50 == pytest.approx(12)


def test_of_idle_seconds_only_the_first_is_recorded(scene):
    scene.journal.sample()
    scene.step(row())
    scene.journal.drain()
    for _ in range(3):
        scene.clock.now += 1.0
        scene.journal.sample()
    busy, idle = scene.recorder.of(LoadRecord)
    assert (busy.batch, idle.batch, idle.step_ms_p50) == (1.0, 0.0, None)
