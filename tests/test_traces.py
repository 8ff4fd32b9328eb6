"""Traces reach those who listen, and nothing is built for nobody."""

import asyncio

from optimus_server.engine.telemetry import Decision, Feed, RowTrace, StepTrace
from optimus_server.traces import UNREAD, Traces


def row(name):
    return RowTrace(
        request_id=name, step=1, start=0, stop=1, chunk=1, masks=1, commits=(), frontier=1, advance=1
    )  # fmt: skip


def trace(number, *names):
    decision = Decision(
        chunk=1, smallest=1, largest=1, reason="hold", rows=1, waiting=0, kv_used=0.0, positions=1, prefill=0,
        kv_tokens=0, expected_commits=1.0, predicted_s=0.0,
    )  # fmt: skip
    return StepTrace(number, 0.0, 0.0, decision, tuple(row(name) for name in names))


def test_watchers_hear_all_and_followers_their_own():
    async def main():
        feed, everything, mine = Feed(), [], []
        traces = Traces(feed)
        assert not feed.active
        with traces.watch(everything.append), traces.follow("a", lambda step, row: mine.append((step.number, row))):
            assert feed.active
            for number, names in enumerate([("a", "b"), ("b",), ("a",)]):
                await asyncio.to_thread(feed.publish, trace(number, *names))
            await asyncio.sleep(0.01)
        assert not feed.active
        return [step.number for step in everything], [(number, row.request_id) for number, row in mine]

    assert asyncio.run(main()) == ([0, 1, 2], [(0, "a"), (2, "a")])


def test_a_blocked_loop_loses_the_oldest():
    async def main():
        feed, heard = Feed(), []
        with Traces(feed).watch(lambda step: heard.append(step.number)):
            for number in range(UNREAD + 5):
                feed.publish(trace(number))
            await asyncio.sleep(0.01)
        return heard

    assert asyncio.run(main()) == list(range(5, UNREAD + 5))
