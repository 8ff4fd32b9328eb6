"""Frames of a replay."""

import io

import pytest
from rich.console import Console

from optimus_server.store.answers import Detail
from optimus_server.store.records import StepRecord
from optimus_server.store.replay import FRESH, HELD, HIDDEN, MASK, frames, replay


def step(t_ms, start, frontier, advance, *positions):
    return StepRecord(
        t_ms, start, start + 4, 4, frontier, 4, advance, positions, (90,) * len(positions), 1, 0, 5.0, "hold"
    )  # fmt: skip


@pytest.fixture
def detail():
    """Prompt of 10; then 10 and 12 commit, then 11, so that 12 waits for it."""
    steps = [step(100.0, 10, 10, 1, 10, 12), step(300.0, 11, 11, 2, 11)]
    return Detail({"request_id": "x"}, {}, steps, "p", "one two\nthree", [4, 4, 5], False)


def canvas(frame):
    """The lines between the head and the legend."""
    return "\n".join(frame.plain.split("\n")[1:-1])


def styled(frame, style):
    return [frame.plain[span.start : span.end] for span in frame.spans if span.style == style]


def test_words_appear_where_they_commit(detail):
    first, second = frames(detail)
    assert canvas(first) == f"one {MASK}three"
    assert styled(first, FRESH)[:2] == ["one ", "three"]
    assert canvas(second) == "one two⏎\nthree"
    assert styled(second, FRESH)[0] == "two⏎\n"
    assert first.plain.startswith("step 1/2  100 ms  chunk 4 (hold)  2 of 4 masks")


def test_what_waits_behind_the_frontier_is_marked(detail):
    detail.steps.insert(1, step(200.0, 11, 11, 0, 13))
    middle = list(frames(detail))[1]
    assert "three" in styled(middle, HELD)


def test_without_text_positions_are_marks(detail):
    bare = Detail(detail.request, {}, detail.steps, None, None, [], False)
    assert [canvas(frame) for frame in frames(bare)] == [f"{HIDDEN}{MASK}{HIDDEN}", HIDDEN * 3]


def test_it_runs_at_its_own_pace(detail):
    slept = []
    console = Console(file=io.StringIO())
    replay(detail, console, speed=2.0, sleep=slept.append)
    assert slept == [0.05, 0.1]
    replay(detail, console, speed=0, sleep=slept.append)
    assert len(slept) == 2
