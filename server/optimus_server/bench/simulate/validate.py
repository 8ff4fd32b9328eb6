"""Does the replay do what the model does when chunk sizes change on the way?

    optimus bench simulate --validate MODEL --commits NAME

Real requests are decoded with scripted chunk sizes, and the same requests are replayed with the same script. At a fixed
chunk size both agree by construction; here the replay has to say what happens between recordings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from optimus_server.bench.simulate.machine import source_of
from optimus_server.bench.simulate.recording import Recording, decode
from optimus_server.bench.simulate.workload import aligned
from optimus_server.bench.simulate.world import Arrival, Scheme, World
from optimus_server.demo.tasks import held_out
from optimus_server.engine.elastic.choice import Choice, Situation
from optimus_server.engine.elastic.controller import Controller
from optimus_server.engine.elastic.latency import Profile
from optimus_server.engine.elastic.yields import rungs
from optimus_server.engine.engine import Engine
from optimus_server.engine.request import Policy, Request
from optimus_server.models.loader import load_model
from optimus_server.text.tokenizer import Tokenizer

Script = Callable[[int, Request, tuple[int, ...]], int]
"""Number of a request, the request and the ladder -> its chunk size."""

OPENING = 16


def _drawn(*key: object, among: tuple[int, ...]) -> int:
    return Random(repr(key)).choice(among)


SCRIPTS: dict[str, Script] = {
    "a random one each block": lambda n, r, ladder: _drawn(n, r.frontier // r.block_size, among=ladder),
    "a random one every 8 steps": lambda n, r, ladder: _drawn(n, r.steps // 8, among=ladder),
    "6 or 12 at random each step": lambda n, r, ladder: _drawn(n, r.steps, among=(6, 12)),
    "32 and 4 in turns of 4 steps": lambda n, r, ladder: (32, 4)[r.steps // 4 % 2],
    "a random one each step": lambda n, r, ladder: _drawn(n, r.steps, among=ladder),
}


class Scripted(Controller):
    """Hands out what a script says."""

    def __init__(self, engine: Engine, script: Script, number: Callable[[str], int]) -> None:
        super().__init__(
            engine.controller.latency, engine.controller.yields,
            block_size=engine.config.block_size, prefill_budget=engine.options.prefill_budget,
        )  # fmt: skip
        self._script, self._number = script, number
        engine.controller = engine.scheduler.controller = self

    def opening(self, policy: Policy) -> int:
        return OPENING

    def choose(self, situation: Situation) -> Choice:
        chunks = tuple(self._script(self._number(row.id), row, self.yields.rungs) for row in situation.rows)
        return Choice(chunks, OPENING, "manual", self.prefill_budget, 0.0)


@dataclass(frozen=True, slots=True)
class Compared:
    """Tokens per step and computed positions per token, real and replayed, of the stories or of all other tasks."""

    script: str
    stories: bool
    tpf: tuple[float, float]
    computed: tuple[float, float]

    @property
    def error(self) -> float:
        """Share by which the replay commits more a step than the model."""
        return self.tpf[1] / self.tpf[0] - 1


def validate(model: Path, recording: Recording, table: Profile, prompts: int) -> list[Compared]:
    """Every script, on the first so many of the recorded prompts.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    loaded, tokenizer = load_model(model, device="cpu"), Tokenizer.load(model)
    ids = [tokenizer.encode_chat(example.inputs)[0] for example in held_out(prompts)]
    found = []
    ladder = rungs(recording.block_size, recording.shift)
    assert OPENING in ladder
    for name, script in SCRIPTS.items():
        rows = decode(loaded, ids, {}, steer=partial(Scripted, script=script, number=int))
        real = [
            (
                sum(row.advance for row in mine),
                sum(row.stop + recording.shift > len(prompt) for row in mine),
                sum(max(0, row.stop - max(row.start, len(prompt) - recording.shift)) for row in mine),
            )
            for mine, prompt in zip(rows, ids, strict=True)
        ]
        replayed = [_replay(recording, table, script, source) for source in range(prompts)]
        for stories in (True, False):
            mine = [n for n in range(prompts) if (recording.tasks[n] == "story") == stories]
            if not mine:
                continue
            (tokens, steps, computed), (tokens_, steps_, computed_) = (
                [sum(column) for column in zip(*(seen[n] for n in mine), strict=True)] for seen in (real, replayed)
            )
            found.append(
                Compared(name, stories, (tokens / steps, tokens_ / steps_), (computed / tokens, computed_ / tokens_))
            )
    return found


def _replay(recording: Recording, table: Profile, script: Script, source: int) -> tuple[int, int, int]:
    """Tokens, steps and computed positions of one request."""
    world = World(recording, table, Scheme.elastic(), max_rows=1)
    Scripted(world.engine, script, source_of)
    world.add(Arrival(0.0, aligned(recording, 64, source), recording.tokens(source), source))
    (request,) = world.engine.scheduler.waiting
    while world.engine.busy:
        world.step()
    usage = request.usage()
    return usage.generated_tokens, usage.steps, usage.computed_positions
