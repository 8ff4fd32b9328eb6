"""Model and KV memory: runs one step and brings the result to the host."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimus_server.engine.batch import Inputs, Offer, needed, offer, pack
from optimus_server.engine.graphs import StepGraphs
from optimus_server.engine.request import Commits, Top
from optimus_server.engine.sampling import choose
from optimus_server.engine.staging import Staging
from optimus_server.engine.step import Step
from optimus_server.engine.unmask import select
from optimus_server.models.cache import KVCache
from optimus_server.models.loader import LoadedModel


class Runner:
    """Owns the device's share of the engine: weights and paged KV.

    Attributes:
        busy_s: seconds that the device has spent on steps so far; the rest of the time it waited for the host.
    """

    def __init__(self, model: LoadedModel, *, pages: int, page_size: int) -> None:
        self.net = model.net
        self.config = model.config
        self.pages = pages
        self.page_size = page_size
        weight = next(self.net.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.kv = KVCache.allocate(model.config, pages=pages, page_size=page_size, device=self.device, dtype=self.dtype)
        self.graphs: StepGraphs | None = None
        self.busy_s = 0.0
        self._staging, self._offers = Staging(self.device), Staging(self.device)

    def record(
        self, *, max_rows: int, max_positions: int, progress: Callable[[float], None] = lambda share: None
    ) -> None:
        """Record the forward for the steps to come, so that launching it takes the host next to nothing.

        Args:
            max_rows, max_positions: of the largest step the engine will make.
            progress: told the share that is done.
        """
        self.graphs = StepGraphs(
            lambda ids, positions, plan: self.net(ids, positions, self.kv, plan),
            self.config,
            pages=min(self.pages, -(-self.config.max_position_embeddings // self.page_size)),
            page_size=self.page_size,
            max_rows=max_rows,
            max_positions=max_positions,
            device=self.device,
            dtype=self.dtype,
        )
        self.graphs.record(progress)

    def launch(self, step: Step) -> Callable[[], list[Commits]]:
        """Begin a step; what is returned waits for it and yields a ``Commits`` for each row, in order.

        On a CPU it is computed when it is waited for.
        """
        return self._on_gpu(step) if self.device.type == "cuda" else partial(self._on_cpu, step)

    def _on_cpu(self, step: Step) -> list[Commits]:
        began = time.perf_counter()
        hidden, offered = self._forward(self._pack(step)), offer(step, vocab_size=self.config.vocab_size)
        result = self._decide(hidden, offered) if offered else None
        self.busy_s += time.perf_counter() - began
        return _commits(step, offered, result)

    def _on_gpu(self, step: Step) -> Callable[[], list[Commits]]:
        began, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        inputs = self._staging.send(self._pack(step))
        began.record()
        hidden = self._forward(inputs)
        # The rest is packed while the forward runs.
        offered, result = offer(step, vocab_size=self.config.vocab_size), None
        if offered:
            # To pinned memory, so that this does not wait.
            result = self._decide(hidden, self._offers.send(offered)).to("cpu", non_blocking=True)
        done.record()

        def wait() -> list[Commits]:
            done.synchronize()
            self.busy_s += began.elapsed_time(done) / 1e3
            return _commits(step, offered, result)

        return wait

    def _pack(self, step: Step) -> Inputs:
        room = self.graphs.fit(needed(step, self.page_size)) if self.graphs else None
        return pack(step, room, mask_id=self.config.mask_token_id, page_size=self.page_size)

    @torch.inference_mode()
    def _forward(self, inputs: Inputs) -> Tensor:
        """[n, hidden]; surplus positions hold anything."""
        if self.graphs and inputs.room:
            return self.graphs.run(inputs, inputs.room)
        ids, positions = inputs.places
        return self.net(ids, positions, self.kv, inputs.attention)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _decide(self, hidden: Tensor, offered: Offer) -> Tensor:
        """Token, confidence, whether it commits, and alternatives, of each mask: float64 [3 + 2 * top_n, m]."""
        logits = self.net.logits(hidden[offered.predictors])
        choice = choose(logits, offered.sampling, self.config.mask_token_id)
        chosen = select(choice.confidence, choice.entropy, offered.unmask)
        return torch.stack([column.double() for column in (choice.token, choice.confidence, chosen, *choice.top)])


def _commits(step: Step, offered: Offer | None, result: Tensor | None) -> list[Commits]:
    """What each row commits. The arrays of all rows are cut from those of the step."""
    if offered is None or result is None:
        nothing = np.zeros(0, dtype=np.int64)
        return [Commits(nothing, nothing, np.zeros(0), valid=True, offered=0)] * len(step.rows)
    token, confidence, chosen, *top = result.numpy()
    keep = chosen > 0
    # [rows + 1]: where each row's commits begin among all of them
    ends = np.concatenate([[0], np.cumsum(keep)])[offered.bounds].tolist()
    finite = np.concatenate([[0], np.cumsum(np.isfinite(confidence))])[offered.bounds]
    counts = np.diff(offered.bounds)
    valid = (np.diff(finite) == counts).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):
        logprobs = np.log(confidence[keep])
    positions, ids, alternatives = offered.positions[keep], token[keep].astype(np.int64), _top(top, keep)
    return [
        Commits(positions[a:b], ids[a:b], logprobs[a:b], good, count, alternatives[a:b])
        for a, b, good, count in zip(ends[:-1], ends[1:], valid, counts.tolist(), strict=True)
    ]


def _top(columns: list[NDArray[np.float64]], keep: NDArray[np.bool_]) -> tuple[Top, ...]:
    """Columns id, logprob, id, logprob ... -> for each kept mask its best tokens; those of no probability left out."""
    if not columns:
        return ()
    pairs = np.stack(columns)[:, keep].T.reshape(int(keep.sum()), len(columns) // 2, 2).tolist()
    return tuple(tuple((int(i), logprob) for i, logprob in best if logprob > -np.inf) for best in pairs)
