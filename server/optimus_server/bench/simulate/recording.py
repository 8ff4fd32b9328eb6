"""How real requests advanced, step by step, at every chunk size: what a simulated model replays.

    optimus bench simulate --record MODEL --out FILE

A replayed request at the same chunk size advances exactly as it did. If its chunk size changes on the way, it goes on
with the recording of the new one from the same place in the answer. Steps it has spent there without moving count;
what it has committed further on does not, and waits of the new recording before that place are skipped. That is a rule,
not a recording: it has not been compared with real decoding, and it touches no scheme but the controller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from optimus_server.demo.evaluate import MAX_NEW_TOKENS
from optimus_server.demo.tasks import held_out
from optimus_server.engine.elastic.yields import rungs
from optimus_server.engine.engine import Engine, EngineOptions
from optimus_server.engine.request import Params, Policy, Request
from optimus_server.errors import SettingsError
from optimus_server.models.loader import LoadedModel, load_model
from optimus_server.text.tokenizer import Tokenizer

DATA = Path(__file__).parent / "data"
BLOCK = 0  # where a chunk size is asked for: the recording of policy ``block``


@dataclass(frozen=True)
class Recording:
    """Frontier advances of the same requests at every chunk size.

    Attributes:
        shift, block_size: of the model that was recorded.
        tasks: name of each request's task.
        advances: chunk size -> for each request, by how much each of its steps moved the frontier.
    """

    shift: int
    block_size: int
    tasks: tuple[str, ...]
    advances: dict[int, tuple[NDArray[np.uint8], ...]]

    def save(self, path: Path) -> None:
        arrays = {"shift": np.array(self.shift), "block_size": np.array(self.block_size), "tasks": np.array(self.tasks)}
        for chunk, requests in self.advances.items():
            arrays[f"{chunk}"] = np.concatenate(requests)
            arrays[f"{chunk}_steps"] = np.array([len(steps) for steps in requests], dtype=np.uint16)
        np.savez_compressed(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Recording":
        """Raises SettingsError if the file is not a recording."""
        try:
            with np.load(path, allow_pickle=False) as data:
                sizes = [int(name) for name in data.files if name.isdigit()]
                advances = {
                    size: tuple(np.split(data[f"{size}"], np.cumsum(data[f"{size}_steps"].astype(int))[:-1]))
                    for size in sizes
                }
                return cls(int(data["shift"]), int(data["block_size"]), tuple(data["tasks"].tolist()), advances)
        except (OSError, ValueError, KeyError) as error:
            raise SettingsError(f"{path} is not a recording: {error}", param="commits") from None

    def of_tasks(self, names: Sequence[str]) -> "Recording":
        """Only the requests of these tasks; all if there are no names."""
        keep = [i for i, task in enumerate(self.tasks) if not names or task in names]
        if not keep:
            raise SettingsError(
                f"the recording has no task {', '.join(names)}, but {', '.join(sorted(set(self.tasks)))}"
            )
        advances = {chunk: tuple(requests[i] for i in keep) for chunk, requests in self.advances.items()}
        return Recording(self.shift, self.block_size, tuple(self.tasks[i] for i in keep), advances)


def record(model: Path, prompts: int, *, device: str = "cpu") -> Recording:
    """Decode held-out prompts of the demo's tasks at every chunk size of the ladder, and in whole blocks.

    Raises:
        ModelError: the checkpoint cannot be loaded.
    """
    loaded, tokenizer = load_model(model, device=device), Tokenizer.load(model)
    config, examples = loaded.config, held_out(prompts)
    ids = [tokenizer.encode_chat(example.inputs)[0] for example in examples]
    sizes = (BLOCK, *rungs(config.block_size, config.logit_shift))
    advances = {size: tuple(_advances(loaded, size, ids)) for size in sizes}
    return Recording(config.logit_shift, config.block_size, tuple(example.task for example in examples), advances)


def _advances(model: LoadedModel, size: int, prompts: Sequence[tuple[int, ...]]) -> list[NDArray[np.uint8]]:
    config = model.config
    policy: Policy = "block" if size == BLOCK else "chunk"
    engine = Engine(model, EngineOptions(pages=32 * 36, max_rows=32, share_prefix=False))
    traces = engine.feed.subscribe(2)
    for number, ids in enumerate(prompts):
        params = Params(
            max_new_tokens=MAX_NEW_TOKENS, stop_ids=config.eos_token_ids, policy=policy, chunk=size or config.block_size
        )
        engine.add(Request(str(number), ids, params, block_size=config.block_size, shift=config.logit_shift))
    found: list[list[int]] = [[] for _ in prompts]
    while engine.busy:
        engine.step()
        for row in (row for trace in traces.drain() for row in trace.rows if row.masks):
            found[int(row.request_id)].append(row.advance)
    return [np.array(steps, dtype=np.uint8) for steps in found]
