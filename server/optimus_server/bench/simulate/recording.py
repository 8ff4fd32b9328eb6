"""How real requests committed, token by token, at every chunk size: what a simulated model replays.

    optimus bench simulate --record MODEL --out FILE

A recording says of every position how many tokens of its block were known when the model was sure of it (``need``),
and in which of the block's steps it was committed (``rank``). A step of the replay commits the masks of its row whose
``need`` is met, and if there are none, the one of the lowest rank. At the chunk size that was recorded, that is what
really happened, step by step. When the chunk size changes on the way, it is a rule, and ``validate`` compares it with
real decoding: README.md in ``bench`` has the figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from optimus_server.demo.evaluate import MAX_NEW_TOKENS
from optimus_server.demo.tasks import held_out
from optimus_server.engine.elastic.yields import rungs
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Commits, Params, Request
from optimus_server.engine.telemetry import RowTrace
from optimus_server.errors import SettingsError
from optimus_server.models.loader import LoadedModel, load_model
from optimus_server.text.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"
BLOCK = 0  # where a chunk size is asked for: the recording of policy ``block``
NEVER = 255  # need of a mask that was committed for want of a better one
THRESHOLD = 0.9  # of the demo models

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Course:
    """One request's answer at one chunk size, whole blocks from the one its prompt ends in.

    Attributes:
        need, rank: ``[blocks * B]``; see the module.
        tokens: of the answer.
    """

    need: Bytes
    rank: Bytes
    tokens: int


@dataclass(frozen=True)
class Recording:
    """The same requests at every chunk size.

    Attributes:
        shift, block_size: of the model that was recorded.
        tasks: name of each request's task.
        offsets: where in its block each request's answer begins.
        courses: chunk size -> each request's course.
    """

    shift: int
    block_size: int
    tasks: tuple[str, ...]
    offsets: tuple[int, ...]
    courses: dict[int, tuple[Course, ...]]

    def save(self, path: Path) -> None:
        arrays = {name: np.array(getattr(self, name)) for name in ("shift", "block_size", "tasks", "offsets")}
        for chunk, courses in self.courses.items():
            arrays[f"{chunk}"] = np.concatenate([[course.need, course.rank] for course in courses], axis=1)
            arrays[f"{chunk}_tokens"] = np.array([course.tokens for course in courses], dtype=np.uint16)
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Raises SettingsError if the file is not a recording."""
        try:
            with np.load(path, allow_pickle=False) as data:
                block, offsets = int(data["block_size"]), data["offsets"]
                courses = {}
                for chunk in (int(name) for name in data.files if name.isdigit()):
                    tokens = data[f"{chunk}_tokens"].astype(int)
                    ends = np.cumsum(-(-(offsets + tokens) // block) * block)
                    parts = np.split(data[f"{chunk}"], ends[:-1], axis=1)
                    courses[chunk] = tuple(
                        Course(part[0], part[1], count) for part, count in zip(parts, tokens.tolist(), strict=True)
                    )
                return cls(int(data["shift"]), block, tuple(data["tasks"].tolist()), tuple(offsets.tolist()), courses)
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(f"{path} is not a recording: {error}", param="commits") from None

    def tokens(self, source: int) -> int:
        """Length of a request's answer, up to where it is recorded at every chunk size."""
        return min(courses[source].tokens for courses in self.courses.values())

    def cycle(self, source: int) -> Callable[[int], int]:
        """Which recorded block stands for a block of a request's answer: once it is over, its whole blocks go round."""
        offset, tokens = self.offsets[source], self.tokens(source)
        first, end = -(-offset // self.block_size), (offset + tokens) // self.block_size
        if end <= first:
            first, end = 0, 1
        last = (offset + tokens - 1) // self.block_size
        return lambda block: block if block <= last else first + (block - first) % (end - first)

    def of_tasks(self, names: Sequence[str]) -> "Recording":
        """Only the requests of these tasks; all if there are no names."""
        keep = [i for i, task in enumerate(self.tasks) if not names or task in names]
        if not keep:
            raise SettingsError(
                f"the recording has no task {', '.join(names)}, but {', '.join(sorted(set(self.tasks)))}"
            )
        courses = {chunk: tuple(requests[i] for i in keep) for chunk, requests in self.courses.items()}
        tasks, offsets = tuple(self.tasks[i] for i in keep), tuple(self.offsets[i] for i in keep)
        return Recording(self.shift, self.block_size, tasks, offsets, courses)


def record(model: Path, prompts: int, *, device: str = "cpu") -> Recording:
    """Decode held-out prompts of the demo's tasks at every chunk size of the ladder, and in whole blocks.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    loaded, tokenizer = load_model(model, device=device), Tokenizer.load(model)
    config, examples = loaded.config, held_out(prompts)
    ids = [tokenizer.encode_chat(example.inputs)[0] for example in examples]
    courses = {}
    for size in (BLOCK, *rungs(config.block_size, config.logit_shift)):
        params = {"policy": "chunk", "chunk": size} if size else {"policy": "block"}
        traces = decode(loaded, ids, params)
        courses[size] = tuple(
            _course(rows, len(prompt), config.block_size, config.logit_shift)
            for rows, prompt in zip(traces, ids, strict=True)
        )
    offsets = tuple(len(prompt) % config.block_size for prompt in ids)
    tasks = tuple(example.task for example in examples)
    return Recording(config.logit_shift, config.block_size, tasks, offsets, courses)


def decode(
    model: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    params: dict[str, Any],
    *,
    steer: Callable[[Engine], object] = lambda engine: None,
) -> list[list[RowTrace]]:
    """Every row of every prompt, in the order of its steps; ``steer`` may change the engine before."""
    config = model.config
    engine = Engine(model, EngineOptions(pages=32 * 36, max_rows=32, share_prefix=False))
    steer(engine)
    traces = engine.feed.subscribe(2)
    for number, ids in enumerate(prompts):
        wanted = Params(max_new_tokens=MAX_NEW_TOKENS, stop_ids=config.eos_token_ids, **params)
        engine.add(Request(str(number), ids, wanted, block_size=config.block_size, shift=config.logit_shift))
    found: list[list[RowTrace]] = [[] for _ in prompts]
    while engine.busy:
        engine.step()
        for row in (row for trace in traces.drain() for row in trace.rows):
            found[int(row.request_id)].append(row)
    return found


def _course(rows: Sequence[RowTrace], prompt: int, block: int, shift: int) -> Course:
    """What the rows of one request say of its positions."""
    tokens = sum(row.advance for row in rows)
    first, size = prompt // block * block, -(-(prompt % block + tokens) // block) * block
    need, rank = np.zeros((2, size), dtype=np.uint8)
    known, refused = np.arange(size) < prompt % block, np.full(size, -1)
    frontier, steps = prompt - first, np.zeros(size // block, dtype=int)
    for row in (row for row in rows if row.masks):
        begin = frontier // block * block
        count = int(known[begin : begin + block].sum())
        window = slice(max(row.start + shift - first, frontier), min(row.stop + shift - first, begin + block))
        commits = cast(Commits, row.commits)
        for place, logprob in zip((commits.positions - first).tolist(), commits.logprobs.tolist(), strict=True):
            rank[place] = steps[begin // block]
            forced = len(commits) == 1 < row.masks and np.exp(logprob) <= THRESHOLD
            if forced and not (shift and place == begin):
                need[place] = NEVER
            elif refused[place] >= 0:
                # Somewhere between what was known when it was refused and when it was taken.
                need[place] = (refused[place] + 1 + count + 1) // 2
            known[place] = True
        refused[window] = count
        steps[begin // block] += 1
        frontier = row.frontier - first
    return Course(need, rank, tokens)
