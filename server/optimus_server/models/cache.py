"""The paged KV cache: memory only; who owns which page is the engine's business."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from optimus_server.models.config import ModelConfig


@dataclass(frozen=True)
class KVCache:
    """K and V of all layers, in pages.

    Attributes:
        k, v: [layers, pages, page_size, kv_heads, head_dim].
    """

    k: Tensor
    v: Tensor

    @classmethod
    def allocate(
        cls,
        config: ModelConfig,
        *,
        pages: int,
        page_size: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> "KVCache":
        """Reserve pages without initialising them: no slot is read before it is written."""
        shape = (config.layers, pages, page_size, config.kv_heads, config.head_dim)
        k, v = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
        return cls(k, v)

    @cached_property
    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer, its K and V pages [pages, page_size, kv_heads, head_dim], as views."""
        return list(zip(self.k.unbind(), self.v.unbind(), strict=True))

    @property
    def pages(self) -> int:
        return self.k.shape[1]

    @property
    def page_size(self) -> int:
        return self.k.shape[2]


def page_bytes(config: ModelConfig, *, page_size: int, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers, K and V together."""
    return 2 * config.layers * page_size * config.kv_heads * config.head_dim * dtype.itemsize
