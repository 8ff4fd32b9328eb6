"""Permits come back, ids are unique, and the queue is limited in tokens."""

import contextlib

import pytest

from optimus_server.errors import Overloaded
from optimus_server.permits import Permits


def test_permits_come_back_however_their_holders_end():
    permits = Permits(1, None)
    with contextlib.suppress(ZeroDivisionError), permits.hold("a"):
        with pytest.raises(Overloaded), permits.hold("b"):
            pass
        assert permits.taken == 1
        1 / 0  # noqa: B018
    assert permits.taken == 0
    with permits.hold("a") as holder:
        assert holder == "a"


def test_an_id_in_use_is_not_given_twice():
    permits = Permits(9, None)
    permits.reserved.add("reserved")
    with permits.hold("a"), permits.hold("a") as other, permits.hold("reserved") as third, permits.hold() as fourth:
        assert len({"a", "reserved", other, third, fourth}) == 5


def test_the_queue_counts_tokens_until_they_are_dequeued():
    permits = Permits(9, 100)
    with permits.hold("a"), permits.hold("b"):
        permits.enqueue("a", 70)
        with pytest.raises(Overloaded):
            permits.enqueue("b", 31)
        permits.enqueue("b", 30)
        permits.dequeue("a")
        permits.dequeue("a")
        assert permits.queued_tokens == 30
    assert permits.queued_tokens == 0
    permits.enqueue("large", 1000)
    assert permits.queued_tokens == 1000
