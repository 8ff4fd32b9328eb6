"""Signals and ticks of the drain; that real streams end well stands in test_cli."""

import signal
from types import SimpleNamespace

import pytest

from optimus_server.serve import Drain


@pytest.fixture
def service():
    return SimpleNamespace(draining=False, idle=False, permits_taken=1, failed=False)


def server():
    return SimpleNamespace(should_exit=False, force_exit=False)


def drain(service, timeout_s=60):
    service.fail_all = lambda: setattr(service, "failed", True)
    return Drain(service, timeout_s)


def test_nothing_happens_without_a_signal(service):
    subject, web = drain(service), server()
    subject.tick(web)
    assert (service.draining, web.should_exit) == (False, False)


def test_the_first_signal_waits_for_what_runs(service):
    subject, web = drain(service), server()
    subject.signal(web, signal.SIGTERM)
    subject.tick(web)
    assert (service.draining, service.failed, web.should_exit) == (True, False, False)
    service.idle = True
    subject.tick(web)
    assert (service.failed, web.should_exit, web.force_exit) == (False, True, False)


@pytest.mark.parametrize("signals", [1, 2])
def test_time_runs_out_by_itself_or_by_a_second_signal(service, signals):
    subject, web = drain(service, 0 if signals == 1 else 60), server()
    for _ in range(signals):
        subject.signal(web, signal.SIGTERM)
    subject.tick(web)
    subject.tick(web)
    assert (service.failed, web.should_exit, web.force_exit) == (True, True, False)


def test_the_third_signal_does_not_wait(service):
    subject, web = drain(service), server()
    for _ in range(3):
        subject.signal(web, signal.SIGINT)
    assert web.force_exit
