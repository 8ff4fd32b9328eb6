"""Attention over spans: FlexAttention with a tile table on a GPU, a dense mask on a CPU."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from optimus_server.demo.objective import Spans

TILE = 128  # FlexAttention's tile; sequence lengths are multiples of it, so no tile crosses two sequences

Mask = Tensor | BlockMask


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """q [heads, L, d], k and v [kv heads, L, d] -> [heads, L, d]; a dense mask is bool [L, L]."""
    if isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, enable_gqa=True)[0]
    mixed = flex_attention(q[None], k[None], v[None], block_mask=mask, enable_gqa=True)
    assert isinstance(mixed, Tensor)
    return mixed[0]


class TiledMasks:
    """Block masks for ``total`` positions. Only the tile tables depend on the sequence length; each is made once.

    The spans are copied into buffers that stay in place, so that one compiled function serves every batch.
    """

    def __init__(self, total: int, device: torch.device) -> None:
        self._spans = [torch.zeros(total, dtype=torch.int32, device=device) for _ in range(4)]
        self._masks: dict[tuple[int, int], BlockMask] = {}
        low, high, low2, high2 = self._spans

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return ((k >= low[q]) & (k < high[q])) | ((k >= low2[q]) & (k < high2[q]))

        self._visible = visible
        self._device = device
        self._total = total

    def mask(self, spans: Spans, length: int, copies: int) -> BlockMask:
        """The mask of a batch of sequences of ``length``, in one copy or two (noisy, then clean)."""
        for buffer, values in zip(self._spans, (spans.low, spans.high, spans.low2, spans.high2), strict=True):
            buffer.copy_(values)
        if (length, copies) not in self._masks:
            self._masks[length, copies] = self._tiles(length, copies)
        return self._masks[length, copies]

    def _tiles(self, length: int, copies: int) -> BlockMask:
        """Which key tiles a query tile reads.

        Partial tiles (the spans decide inside): a tile's own, and for a noisy tile the clean tile at its place.
        Full tiles: the clean tiles before it. With one copy all tiles are clean, and the spans causal.
        """
        tiles = self._total // TILE
        per_copy, per_sequence = tiles // copies, length // TILE
        index = torch.arange(tiles, device=self._device)
        place = index % per_copy
        sequence, step = place // per_sequence, place % per_sequence
        clean = index >= tiles - per_copy
        same = (sequence[:, None] == sequence[None]) & clean[None]
        full = same & (step[None] < step[:, None])
        partial = (same & (step[None] == step[:, None])) | (index[:, None] == index[None])

        def table(allowed: Tensor) -> tuple[Tensor, Tensor]:
            order = torch.argsort(allowed.int(), dim=-1, descending=True, stable=True)
            return allowed.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]

        return BlockMask.from_kv_blocks(*table(partial), *table(full), BLOCK_SIZE=TILE, mask_mod=self._visible)
