"""The engine's thread by itself; ``test_service.py`` has it behind the service."""

import gc
import threading

import pytest

from optimus_server.engine.request import Committed, Finished, Params, Request
from optimus_server.errors import InvalidRequest
from optimus_server.inbox import Add, Cancel, Stop
from optimus_server.thread import EngineThread, calm_collector
from tests.web import BLOCK, END, ScriptedEngine, wait_for


class Heard:
    def __init__(self, engine):
        self.told, self.errors, self.threads = [], [], set()
        self.host = EngineThread(engine)
        self.host.start(self.deliver, self.errors.append)

    def deliver(self, told):
        self.threads.add(threading.current_thread().name)
        self.told.append(told)

    def ask(self, name, tokens=9):
        self.host.put(Add(Request(name, (1, 2), Params(max_new_tokens=tokens), block_size=BLOCK, shift=1)))


@pytest.fixture
def heard():
    made = []

    def make(engine):
        made.append(Heard(engine))
        return made[-1]

    yield make
    for one in made:
        one.host.put(Stop())
        one.host.join(5)


def test_a_step_is_told_whole_and_in_order(heard):
    one = heard(ScriptedEngine(lambda request: [(10,), (11, END)]))
    one.ask("a")
    wait_for(lambda: any(isinstance(event, Finished) for told in one.told for _, event in told))
    steps = [[type(event) for _, event in told] for told in one.told]
    assert steps == [[Committed], [Committed, Finished]]
    assert one.threads == {"engine"}
    assert one.host.step_began is None
    assert one.host.load().running == 0


def test_what_the_engine_refuses_is_told_as_an_error(heard):
    one = heard(ScriptedEngine(lambda request: [(END,)], capacity=BLOCK))
    one.ask("long", 500)
    wait_for(lambda: one.told)
    [[(name, error)]] = one.told
    assert name == "long"
    assert isinstance(error, InvalidRequest)


def test_a_silent_step_can_be_seen(heard):
    one = heard(ScriptedEngine(lambda request: [(10,)] * 50 + [(END,)], step_s=0.05))
    one.ask("a")
    wait_for(lambda: one.host.step_began)
    one.host.put(Cancel("a"))
    wait_for(lambda: one.told and isinstance(one.told[-1][-1][1], Finished))


def test_an_engine_that_fails_is_over(heard):
    engine = ScriptedEngine(lambda request: [(10,)])
    engine.explode = True
    one = heard(engine)
    one.ask("a")
    wait_for(lambda: one.errors)
    assert one.errors == ["the engine stopped: RuntimeError: script says so"]
    assert one.host.step_began is None


def test_the_collector_looks_for_less():
    before = gc.get_threshold()
    try:
        calm_collector()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold()[0] > before[0] or before[0] == 20_000
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
