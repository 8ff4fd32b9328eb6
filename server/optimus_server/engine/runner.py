"""Model and KV memory: runs one batch and brings the result to the host."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from optimus_server.engine.batch import Batch
from optimus_server.engine.sampling import choose
from optimus_server.engine.unmask import select
from optimus_server.models.cache import KVCache
from optimus_server.models.loader import LoadedModel


@dataclass(frozen=True, slots=True)
class Commits:
    """What one row commits: positions, their tokens and the logarithm of their confidence, all ``[k]``.

    ``valid`` is False if the outputs at its masks were not numbers; then nothing in it means anything.
    """

    positions: NDArray[np.int64]
    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    valid: bool


class Runner:
    """Owns the device's share of the engine: weights and paged KV."""

    def __init__(self, model: LoadedModel, *, pages: int, page_size: int) -> None:
        self.net = model.net
        self.mask_id = model.config.mask_token_id
        weight = next(self.net.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.kv = KVCache.allocate(model.config, pages=pages, page_size=page_size, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def run(self, batch: Batch) -> list[Commits]:
        """One forward; a ``Commits`` for each row of the step, in order."""
        hidden = self.net(batch.ids, batch.positions, self.kv, batch.attention)
        if batch.sampling is None or batch.unmask is None:
            nothing = np.zeros(0, dtype=np.int64)
            return [Commits(nothing, nothing, np.zeros(0), valid=True)] * len(batch.masks)
        logits = self.net.logits(hidden[batch.predictors])
        token, confidence, entropy = choose(logits, batch.sampling, self.mask_id)
        chosen = select(confidence, entropy, batch.unmask)
        # The one point where the host waits for the device.
        result = torch.stack([token.double(), confidence.double(), chosen.double()]).cpu().numpy()
        splits = np.cumsum([len(offered) for offered in batch.masks])[:-1]
        return [
            _commits(offered, part) for offered, part in zip(batch.masks, np.split(result, splits, axis=1), strict=True)
        ]


def _commits(offered: NDArray[np.int64], result: NDArray[np.float64]) -> Commits:
    token, confidence, chosen = result
    keep = chosen > 0
    valid = bool(np.isfinite(confidence).all())
    with np.errstate(divide="ignore", invalid="ignore"):
        logprobs = np.log(confidence[keep])
    return Commits(offered[keep], token[keep].astype(np.int64), logprobs, valid)
