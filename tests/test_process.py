"""The engine in a process of its own: the same answers, telemetry, knobs and errors; and what happens when it dies."""

import asyncio
import contextlib
import os
import signal
from dataclasses import replace

import pytest

from optimus_server.engine.engine import Engine
from optimus_server.engine.request import Committed, Finished
from optimus_server.errors import EngineStopped, InvalidRequest, ModelError, SettingsError
from optimus_server.inbox import Knobs, Stop
from optimus_server.mailbox import Traced
from optimus_server.process import EngineProcess, build
from optimus_server.service import Service
from optimus_server.settings import Settings
from optimus_server.text.ask import Ask
from optimus_server.thread import EngineThread
from tests.web import wait_for

OPTIONS = {"no_profile": True, "kv_pages": 200, "threads": 1}


@pytest.fixture(scope="module")
def backend():
    backend = build(Settings(engine_in="process", **OPTIONS))
    yield backend
    backend.host.put(Stop())
    backend.host.join(20)


@contextlib.asynccontextmanager
async def running(backend):
    service = Service(
        backend.host, block_size=backend.prompter.rules.block_size, shift=backend.shift, max_concurrent=64
    )
    service.start()
    try:
        yield service
    finally:
        await service.stop()


async def answer(service, prompt, name):
    ids, end = [], None
    with service.submit(name, prompt) as batches:
        async for batch in batches:
            for event in batch:
                ids += getattr(event, "ids", ())
                end = event
    return ids, end


def prompts(backend, count):
    asks = (
        Ask(inputs=f"What is {17 + 5 * n} plus {30 + n}?", diffusion={"chunk": 4}, max_new_tokens=40)
        for n in range(count)
    )
    return [backend.prompter.prompt(ask) for ask in asks]


def test_it_answers_as_a_thread_does(backend):
    """Many at once, one that is cancelled, one that can never run; then it stops, and its process is gone."""
    local = build(Settings(engine_in="thread", **OPTIONS))
    assert isinstance(local.host, EngineThread)
    assert isinstance(backend.host, EngineProcess)
    assert (local.facts, local.shift, local.prompter.rules) == (backend.facts, backend.shift, backend.prompter.rules)

    async def ask(backend):
        steps = []
        async with running(backend) as service:
            with service.traces.watch(steps.append):
                wanted = prompts(backend, 8)
                told = await asyncio.gather(*(answer(service, one, f"r{n}") for n, one in enumerate(wanted)))
                with service.submit("told", replace(wanted[0], traced=True)) as batches:
                    assert told_first([event async for batch in batches for event in batch])
                cancelled = asyncio.create_task(answer(service, wanted[0], "gone"))
                await asyncio.sleep(0.05)
                service.cancel("gone")
                assert (await cancelled)[1].reason == "cancelled"
                service.turn(Knobs(paused=True))
                waiting = asyncio.create_task(answer(service, wanted[1], "held"))
                await until(lambda: service.held == 1)
                # What waits for an operator is no engine that is stuck.
                assert backend.host.step_began is None
                service.turn(Knobs(chunk=2))
                held = await waiting
                assert held[1].usage.chunk[0] == 4
                with pytest.raises(InvalidRequest, match="max_new_tokens"):
                    await answer(service, long(wanted[0]), "long")
                assert service.load().running == 0
                assert service.load().pages == 200
        return told, steps

    theirs, steps = asyncio.run(ask(backend))
    ours, _ = asyncio.run(ask(local))
    assert [ids for ids, _ in theirs] == [ids for ids, _ in ours]
    assert all(isinstance(end, Finished) for _, end in theirs)
    assert all(end.usage.queued_s < 20 for _, end in theirs)
    rows = [row for step in steps for row in step.rows if row.request_id == "r3"]
    said = {position: token for row in rows for position, token, _ in row.commits}
    prompt = len(prompts(backend, 8)[3].ids)
    assert [said[prompt + n] for n in range(len(theirs[3][0]))] == theirs[3][0]
    wait_for(lambda: not backend.host._process.is_alive(), 20)


def told_first(events):
    """Whether each step was told before its tokens."""
    told = 0
    for event in events:
        if isinstance(event, Traced):
            told = event.row.step
        elif isinstance(event, Committed) and event.step > told:
            return False
    return told > 0


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def long(prompt):
    """What no prompter would let through."""
    return replace(prompt, params=replace(prompt.params, max_new_tokens=100_000))


def test_a_process_that_is_killed_ends_its_requests_and_no_more(caplog):
    backend = build(Settings(engine_in="process", **OPTIONS))

    async def run():
        async with running(backend) as service:
            prompt = backend.prompter.prompt(Ask(inputs="Tell me a story.", diffusion={"chunk": 1}, max_new_tokens=400))
            asking = asyncio.create_task(answer(service, prompt, "story"))
            await until(lambda: service.load().running)
            assert service.broken is None
            await until(lambda: backend.host.step_began)
            os.kill(backend.host._process.pid, signal.SIGTERM)  # the server's business
            os.kill(backend.host._process.pid, signal.SIGKILL)
            with pytest.raises(EngineStopped, match="ended with exit code -9"):
                await asking
            assert "exit code -9" in service.broken
            with pytest.raises(EngineStopped):
                service.permit().__enter__()

    asyncio.run(run())
    assert "exit code -9: this server must be restarted" in caplog.text


def test_a_process_that_falls_silent_is_stuck(monkeypatch):
    monkeypatch.setattr("optimus_server.process.SILENT_S", 1.5)
    backend = build(Settings(engine_in="process", **OPTIONS))

    async def run():
        async with running(backend) as service:
            pid = backend.host._process.pid
            await asyncio.sleep(2)
            assert backend.host.step_began is None
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: backend.host.step_began)
            assert service.broken is None
            monkeypatch.setattr("optimus_server.service.STUCK_AFTER_S", 0.0)
            assert "in one step" in service.broken
            os.kill(pid, signal.SIGCONT)
            await until(lambda: backend.host.step_began is None)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"model_id": "/nowhere"}, ModelError), ({"chunk_ladder": "1,500"}, SettingsError)],
)
def test_what_cannot_be_served_is_said_as_by_a_thread(settings, error):
    said = []
    for where in ("thread", "process"):
        with pytest.raises(error) as raised:
            build(Settings(engine_in=where, **settings))
        said.append((raised.value.message, raised.value.param))
    assert said[0] == said[1]


def test_without_a_gpu_the_engine_is_in_a_thread():
    host = build(Settings(device="cpu", **OPTIONS)).host
    assert isinstance(host, EngineThread)
    assert isinstance(host.engine, Engine)
