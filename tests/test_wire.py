"""What arrives is what was sent."""

import pickle

import numpy as np

from optimus_server.engine.request import Commits, Failed, Finished, Params, Request
from optimus_server.engine.telemetry import Decision, RowTrace, StepTrace
from optimus_server.errors import InvalidRequest
from optimus_server.wire import Asked, packed, unpacked


def test_a_trace_arrives_as_it_was_sent():
    decision = Decision(
        chunk=4, smallest=2, largest=8, reason="hold", rows=2, waiting=1, kv_used=0.5, positions=12, prefill=0,
        kv_tokens=99, expected_commits=3.5, predicted_s=0.01,
    )  # fmt: skip

    def row(name, positions):
        found = np.array(positions, dtype=np.int64)
        commits = Commits(found, found + 100, -found / 10, valid=True, offered=5)
        return RowTrace(name, 3, 4, 9, 4, 5, commits, 8, 2)

    for rows in ((row("a", [4, 6]), row("b", []), row("c", [1])), ()):
        trace = StepTrace(7, 1.5, 0.02, decision, rows)
        again = unpacked(pickle.loads(pickle.dumps(packed(trace))))
        assert (again.number, again.at, again.observed_s, again.decision) == (7, 1.5, 0.02, decision)
        assert again.committed == trace.committed
        for one, other in zip(again.rows, rows, strict=True):
            assert list(one.commits) == list(other.commits)
            assert one._replace(commits=None) == other._replace(commits=None)


def test_a_request_arrives_as_it_was_sent():
    request = Request("r", (5, 6, 7), Params(max_new_tokens=9, chunk=3), block_size=8, shift=1)
    again = pickle.loads(pickle.dumps(Asked.of(request))).request()
    assert (again.id, again.params, again.created) == (request.id, request.params, request.created)
    assert again.tokens.tolist() == request.tokens.tolist()
    again.committed[3] = True
    assert again.first_mask(0) == 4


def test_events_and_errors_can_travel():
    request = Request("r", (5,), Params(max_new_tokens=9), block_size=8, shift=1)
    for told in (Finished("length", request.usage()), Failed("no", request.usage())):
        assert pickle.loads(pickle.dumps(told)) == told
    error = pickle.loads(pickle.dumps(InvalidRequest("too long", param="max_new_tokens")))
    assert (error.message, error.param) == ("too long", "max_new_tokens")
