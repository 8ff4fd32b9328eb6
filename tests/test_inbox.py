"""The order in which the engine's thread acts: a pause holds requests back, a cancellation finds them there."""

import threading

from optimus_server.engine.request import Params, Request
from optimus_server.inbox import Add, Cancel, Inbox, Knobs, Stop, Turn
from tests.web import BLOCK, ScriptedEngine


def request(name):
    return Add(Request(name, (7, 8), Params(max_new_tokens=4), block_size=BLOCK, shift=1))


def engine(**options):
    return ScriptedEngine(lambda request: [(1,)] * 3, **options)


def acting(inbox, engine, *messages):
    for message in messages:
        inbox.put(message)
    return inbox.act(engine)


def never(request, error):
    raise AssertionError(error)


def test_a_pause_holds_new_requests_back_in_their_order():
    inbox, scripted = Inbox(never), engine()
    acting(inbox, scripted, request("a"), Turn(Knobs(paused=True, chunk=4)), request("b"), request("c"))
    assert ([*scripted.live], inbox.held) == (["a"], 2)
    assert scripted.steered == [(4, None)]
    acting(inbox, scripted, Turn(Knobs(tpot_s=0.5)))
    assert ([*scripted.live], inbox.held) == (["a", "b", "c"], 0)
    assert scripted.steered[1:] == [(None, 0.5)]


def test_a_held_request_can_be_cancelled_and_the_engine_tells():
    inbox, scripted = Inbox(never), engine()
    acting(inbox, scripted, Turn(Knobs(paused=True)), request("a"), Cancel("a"))
    assert scripted.ended == [("a", "cancelled")]
    assert (inbox.held, scripted.busy) == (0, True)


def test_a_paused_idle_engine_sleeps_and_can_be_stopped():
    inbox, scripted, ended = Inbox(never), engine(), []
    inbox.put(Turn(Knobs(paused=True)))
    inbox.put(request("a"))
    thread = threading.Thread(target=lambda: ended.append(inbox.act(scripted)))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    inbox.put(Stop())
    thread.join(5)
    assert ended == [False]


def test_what_the_engine_refuses_is_told():
    told = []
    inbox = Inbox(lambda request, error: told.append((request.id, error.message)))
    acting(inbox, engine(capacity=1), request("a"), request("b"), Stop())
    assert [name for name, _ in told] == ["a", "b"]
