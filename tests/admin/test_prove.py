"""What the pages cost and how fast they answer, in small; ``prove.py`` says how it is done at full size."""

import statistics
import time

import pytest

from optimus_server.api.admin import office
from tests.admin import prove
from tests.store.prove import fill


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    place = tmp_path_factory.mktemp("large") / "log.db"
    fill(place, 20_000, now_us=time.time_ns() // 1000)
    return place


def test_twenty_pages_do_not_slow_the_engine_down(demo):
    """Bounds are loose, since the tests share their machine; the engine thread's own work is what is held."""
    cost = prove.page_cost(demo, readers=20, pairs=3, seconds=0.6, rows=4)
    assert statistics.median(cost.cpu) < 1.3
    assert statistics.median(cost.loop) < 0.3
    # They were really read: four ticks a second, each with four requests and the figures.
    assert cost.bytes_s > 4000


def test_a_tick_is_written_once_however_many_pages_are_open(demo, monkeypatch):
    written = []
    named = office.named_event
    monkeypatch.setattr(office, "named_event", lambda event: written.append(event["point"]["at"]) or named(event))
    with prove.Pages(demo.url) as pages:
        pages.open(12)
        prove.wait_for(lambda: demo.app.state.office.open_pages == 12)
        prove.wait_for(lambda: len(written) >= 4)
        assert pages.received() > 0
    assert len(set(written)) == len(written)


def test_questions_of_the_pages_to_a_large_log(large):
    with prove.served(large) as live:
        found = prove.questions(live, rounds=3)
        # A fiftieth of a million requests: each of these reads a small part of it, or all of one index.
        assert max(found.values()) < 200, found
        assert prove.first_rows(live) < 1000
