"""Model, KV memory and the memory of requests: runs one step after the other and brings what they commit to the host.

The device keeps the tokens and lengths of running requests (``optimus_kernels.slots``). So a step can be launched while
the one before still runs: its rows are made where that one's result is.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optimus_kernels.layout import lay_out
from optimus_kernels.paged_attention import AttentionPlan, Room
from optimus_kernels.slots import SLOT, STEPS, Rows, Slots
from optimus_kernels.unmask import unmask
from optimus_server.engine.batch import Arriving, Batch, needed, pack, span
from optimus_server.engine.graphs import Buffers, StepGraphs
from optimus_server.engine.request import Commits, Top
from optimus_server.engine.sampling import choose
from optimus_server.engine.staging import Staging
from optimus_server.engine.step import Landed, Step
from optimus_server.models.cache import KVCache
from optimus_server.models.loader import LoadedModel


class Runner:
    """Owns the device's share of the engine: weights, paged KV, and the requests' tokens and lengths.

    Attributes:
        ahead: whether it pays to launch a step before the one before is over.
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
        self.ahead = self.device.type == "cuda"
        self.busy_s = 0.0
        self._staging = Staging(self.device)
        self._slots = Slots(self._ints(0, 0), self._ints(0, 6))

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

    def launch(self, step: Step) -> Callable[[], Landed]:
        """Begin a step; what is returned waits for it. At most one more may be launched before that.

        On a CPU it is computed when it is waited for.
        """
        room = needed(step, self.page_size)
        batch = self._staging.send(pack(step, pages=room.pages, vocab_size=self.config.vocab_size))
        run = partial(self._run, step, room, batch)
        return self._on_gpu(run) if self.device.type == "cuda" else partial(self._on_cpu, run)

    def _on_cpu(self, run: Callable[[], tuple[Tensor, Tensor]]) -> Landed:
        began = time.perf_counter()
        landed = _landed(*run())
        self.busy_s += time.perf_counter() - began
        return landed

    def _on_gpu(self, run: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], Landed]:
        began, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        # To pinned memory, so that this does not wait.
        rows, result = (tensor.to("cpu", non_blocking=True) for tensor in run())
        done.record()

        def wait() -> Landed:
            done.synchronize()
            self.busy_s += began.elapsed_time(done) / 1e3
            return _landed(rows, result)

        return wait

    @torch.inference_mode()
    def _run(self, step: Step, room: Room, batch: Batch) -> tuple[Tensor, Tensor]:
        """Starts, stops and bounds of the rows, int32 ``[3r + 1]``; of each mask token, confidence, whether it commits,
        its position (-1 if there is none after all) and alternatives, float64 ``[4 + 2 * top_n, m]``.
        """
        recorded = self.graphs.fit(room) if self.graphs else None
        if batch.arriving:
            self._take_in(batch.arriving)
        buffers = self.graphs.buffers(recorded) if self.graphs and recorded else self._buffers(step, room)
        rows = lay_out(
            self._slots, batch.turns, buffers.places, buffers.plan,
            masks=step.masks, shift=self.config.logit_shift, mask_id=self.config.mask_token_id or 0,
        )  # fmt: skip
        hidden = self.graphs.run(recorded) if self.graphs and recorded else self._forward(buffers)
        return torch.cat([rows.starts, rows.stops, rows.bounds]), self._decide(step, batch, rows, hidden)

    def _buffers(self, step: Step, room: Room) -> Buffers:
        widest = max([turn.row.width for turn in step.turns])
        sizes = {"block_size": self.config.block_size, "page_size": self.page_size}
        plan = AttentionPlan.empty(
            room, **sizes, width=widest, reach=room.pages * self.page_size, device=self.device
        )  # fmt: skip
        return Buffers(torch.empty(2, room.positions, dtype=torch.int64, device=self.device), plan)

    def _forward(self, buffers: Buffers) -> Tensor:
        """[n, hidden]; positions without a row hold anything."""
        ids, positions = buffers.places
        return self.net(ids, positions, self.kv, buffers.plan)  # type: ignore[no-any-return]

    def _decide(self, step: Step, batch: Batch, rows: Rows, hidden: Tensor) -> Tensor:
        """Choose tokens, commit some of them, and move the requests on."""
        block, shift = self.config.block_size, self.config.logit_shift
        if not step.masks:
            nothing = hidden.new_zeros(0)
            unmask(self._slots, batch.turns, rows, nothing.long(), nothing, None, block_size=block, shift=shift, span=2)
            return nothing.double().expand(4, 0)
        plan = batch.plan
        if batch.draws:
            step_numbers = self._slots.lengths[batch.turns.fields[SLOT].long(), STEPS]
            plan = replace(plan, draws=batch.draws.spread(rows.owner, step_numbers, rows.positions))
        choice = choose(self.net.logits(hidden[rows.predictors]), plan, self.config.mask_token_id)
        chosen = unmask(
            self._slots, batch.turns, rows, choice.token, choice.confidence, choice.entropy,
            block_size=block, shift=shift, span=span(step),
        )  # fmt: skip
        columns = (choice.token, choice.confidence, chosen, rows.positions, *choice.top)
        return torch.stack([column.double() for column in columns])

    def _take_in(self, arriving: Arriving) -> None:
        """Give requests their slots; the memory of slots grows as they come."""
        count, canvas = arriving.count, arriving.tokens.shape[1]
        tokens, lengths = self._slots.tokens, self._slots.lengths
        if count > len(lengths) or canvas > tokens.shape[1]:
            rows, columns = max(count, len(lengths)), max(canvas, tokens.shape[1])
            self._slots = Slots(self._ints(rows, columns), self._ints(rows, 6))
            self._slots.tokens[: len(tokens), : tokens.shape[1]] = tokens
            self._slots.lengths[: len(lengths)] = lengths
        self._slots.tokens[arriving.slots, :canvas] = arriving.tokens
        self._slots.lengths[arriving.slots] = arriving.lengths

    def _ints(self, *shape: int) -> Tensor:
        return torch.full(shape, -1, dtype=torch.int32, device=self.device)


def _landed(rows: Tensor, result: Tensor) -> Landed:
    """What each turn computes and commits. The arrays of all turns are cut from those of the step."""
    count = len(rows) // 3
    starts, stops, bounds = np.split(rows.numpy(), [count, 2 * count])
    token, confidence, chosen, position, *top = result.numpy()
    keep, open_ = chosen > 0, position >= 0
    # [rows + 1]: where each row's commits begin among all of them; the same of masks, and of numbers
    ends, masks, finite = (
        np.concatenate([[0], np.cumsum(each)])[bounds] for each in (keep, open_, open_ & np.isfinite(confidence))
    )
    counts = np.diff(masks)
    valid = (np.diff(finite) == counts).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):
        logprobs = np.log(confidence[keep])
    positions, ids, alternatives = position[keep].astype(np.int64), token[keep].astype(np.int64), _top(top, keep)
    found = ends.tolist()
    return Landed(
        list(zip(starts.tolist(), stops.tolist(), strict=True)),
        [
            Commits(positions[a:b], ids[a:b], logprobs[a:b], good, offered, alternatives[a:b])
            for a, b, good, offered in zip(found[:-1], found[1:], valid, counts.tolist(), strict=True)
        ],
    )


def _top(columns: list[NDArray[np.float64]], keep: NDArray[np.bool_]) -> tuple[Top, ...]:
    """Columns id, logprob, id, logprob ... -> for each kept mask its best tokens; those of no probability left out."""
    if not columns:
        return ()
    pairs = np.stack(columns)[:, keep].T.reshape(int(keep.sum()), len(columns) // 2, 2).tolist()
    return tuple(tuple((int(i), logprob) for i, logprob in best if logprob > -np.inf) for best in pairs)
