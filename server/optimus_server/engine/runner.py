"""Model and KV memory: runs one step and brings the result to the host."""

import numpy as np
import torch
from numpy.typing import NDArray

from optimus_server.engine.batch import Batch, pack
from optimus_server.engine.request import Commits, Top
from optimus_server.engine.sampling import choose
from optimus_server.engine.step import Step
from optimus_server.engine.unmask import select
from optimus_server.models.cache import KVCache
from optimus_server.models.loader import LoadedModel


class Runner:
    """Owns the device's share of the engine: weights and paged KV."""

    def __init__(self, model: LoadedModel, *, pages: int, page_size: int) -> None:
        self.net = model.net
        self.config = model.config
        self.pages = pages
        self.page_size = page_size
        weight = next(self.net.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.kv = KVCache.allocate(model.config, pages=pages, page_size=page_size, device=self.device, dtype=self.dtype)

    def run(self, step: Step) -> list[Commits]:
        """One forward; a ``Commits`` for each row of the step, in order."""
        return self._forward(
            pack(
                step,
                mask_id=self.config.mask_token_id,
                vocab_size=self.config.vocab_size,
                page_size=self.page_size,
                device=self.device,
            )
        )

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> list[Commits]:
        hidden = self.net(batch.ids, batch.positions, self.kv, batch.attention)
        if batch.sampling is None or batch.unmask is None:
            nothing = np.zeros(0, dtype=np.int64)
            return [Commits(nothing, nothing, np.zeros(0), valid=True, offered=0)] * len(batch.masks)
        logits = self.net.logits(hidden[batch.predictors])
        choice = choose(logits, batch.sampling, self.config.mask_token_id)
        chosen = select(choice.confidence, choice.entropy, batch.unmask)
        columns = [choice.token, choice.confidence, chosen, *choice.top]
        # The one point where the host waits for the device.
        result = torch.stack([column.double() for column in columns]).cpu().numpy()
        splits = np.cumsum([len(offered) for offered in batch.masks])[:-1]
        return [
            _commits(offered, part) for offered, part in zip(batch.masks, np.split(result, splits, axis=1), strict=True)
        ]


def _commits(offered: NDArray[np.int64], result: NDArray[np.float64]) -> Commits:
    token, confidence, chosen, *top = result
    keep = chosen > 0
    valid = bool(np.isfinite(confidence).all())
    with np.errstate(divide="ignore", invalid="ignore"):
        logprobs = np.log(confidence[keep])
    return Commits(offered[keep], token[keep].astype(np.int64), logprobs, valid, len(offered), _top(top, keep))


def _top(columns: list[NDArray[np.float64]], keep: NDArray[np.bool_]) -> tuple[Top, ...]:
    """Columns id, logprob, id, logprob ... -> for each kept mask its best tokens; those of no probability left out."""
    if not columns:
        return ()
    pairs = np.stack(columns)[:, keep].T.reshape(int(keep.sum()), len(columns) // 2, 2).tolist()
    return tuple(tuple((int(i), logprob) for i, logprob in best if logprob > -np.inf) for best in pairs)
