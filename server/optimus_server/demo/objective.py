"""The two training objectives, as one form: ids, who sees whom, and which hidden state predicts which token.

**Autoregressive.** The sequence under a causal mask; position p - 1 predicts p.

**Block diffusion** (SDAR, arXiv 2510.06303). Two copies of each sequence, noisy and clean, with the same position ids.
A noisy block sees itself and the clean blocks before it; a clean block sees the clean blocks up to itself. Masked
positions carry cross-entropy weighted by 1 / mask ratio. Without shift position p predicts p; with shift p - 1 does,
and the clean p - 1 when p is the first of its block: the clean block before it cannot see p, so nothing leaks.

    B = 2, ids a b c d, c masked      noisy: a b _ d    clean: a b c d
    noisy _ sees {noisy _ d, clean a b};  with shift, c is predicted at the clean b

Two shares of the data prepare for chunked decoding (`Noise`): blocks whose suffix is absent, since a chunk does not
compute it; and sequences with a smaller block size, since a prefix cached early was computed without what came later.
With block size 1 and shift the clean copy is plain autoregression.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from optimus_server.demo.corpus import BLOCK, CONTEXT, MASKABLE
from optimus_server.demo.tokenizer import MASK


@dataclass(frozen=True)
class Spans:
    """Key k is visible to query q iff ``low[q] <= k < high[q]`` or ``low2[q] <= k < high2[q]``; all int32 [L]."""

    low: Tensor
    high: Tensor
    low2: Tensor
    high2: Tensor

    def dense(self) -> Tensor:
        """The mask as booleans [L, L]."""
        key = torch.arange(len(self.low), device=self.low.device)[None]
        first = (key >= self.low[:, None]) & (key < self.high[:, None])
        return first | ((key >= self.low2[:, None]) & (key < self.high2[:, None]))


@dataclass(frozen=True)
class Work:
    """One training batch. ``source[i]`` is the place in ``ids`` whose output predicts ``targets[i]``."""

    ids: Tensor  # [L]
    positions: Tensor  # [L]
    spans: Spans
    source: Tensor  # [T]
    targets: Tensor  # [T]
    weights: Tensor  # [T] float, zero where there is no loss; already divided by the number of target positions


@dataclass(frozen=True)
class Noise:
    """How block diffusion disturbs a batch.

    Attributes:
        shift: 1 if position p - 1 predicts p.
        cut: share of blocks whose suffix is absent.
        small: share of sequences with a block size drawn from ``sizes``.
    """

    shift: int
    cut: float = 0.25
    small: float = 0.2
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)


_WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_LEAST, _CLAMP = 0.01, 10.0  # smallest mask ratio; largest weight 1 / ratio


def _grid(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets of the sequences and positions in them, both broadcast to [N, S]."""
    count, length = ids.shape
    start = torch.arange(count, device=ids.device)[:, None] * length
    place = torch.arange(length, device=ids.device)[None]
    return start.expand(count, length), place.expand(count, length)


def autoregressive(ids: Tensor, roles: Tensor) -> Work:
    """Next-token prediction on every target. ids and roles: [N, S]."""
    start, place = _grid(ids)
    none = torch.zeros(ids.numel(), dtype=torch.int32, device=ids.device)
    weights = ((roles != CONTEXT) & (place > 0)).float()
    return Work(
        ids=ids.flatten(),
        positions=place.flatten(),
        spans=Spans(start.flatten().int(), (start + place + 1).flatten().int(), none, none),
        source=(start + place - 1).clamp(min=0).flatten(),
        targets=ids.flatten(),
        weights=(weights / weights.sum().clamp(min=1)).flatten(),
    )


def block_diffusion(ids: Tensor, roles: Tensor, noise: Noise, generator: torch.Generator) -> Work:
    """Noisy and clean copies of a batch. ids and roles: [N, S], S a multiple of 32; noisy come first in the result."""
    count, length = ids.shape
    device = ids.device
    start, place = _grid(ids)

    def uniform(*size: int) -> Tensor:
        return torch.rand(size, device=device, generator=generator)

    def one_of(values: tuple[int, ...], *size: int) -> Tensor:
        drawn = torch.randint(len(values), size, device=device, generator=generator)
        return torch.tensor(values, device=device)[drawn]

    # [N, 1] block size of each sequence; [N, S] block of each position, and its offset in it
    size = torch.where(uniform(count, 1) < noise.small, one_of(noise.sizes, count, 1), BLOCK)
    block = place // size
    offset = place % size

    def per_block(values: Tensor) -> Tensor:
        return values.gather(1, block)

    ratio = per_block(_LEAST + (1 - _LEAST) * uniform(count, length))
    first = per_block(uniform(count, length)) * size  # a cut block: clean before `first`, absent from `stop` on
    window = per_block(one_of(_WINDOWS, count, length))
    is_cut = per_block(uniform(count, length)) < noise.cut
    first = torch.where(is_cut, first.long(), 0)
    stop = torch.where(is_cut, torch.minimum(first + window, size), size)

    may = roles == MASKABLE
    masked = may & (offset >= first) & (uniform(count, length) < ratio)
    weights = torch.where(masked & (offset < stop), (1 / ratio).clamp(max=_CLAMP), 0.0)
    source = start + place
    if noise.shift:
        # One past the window is a candidate, too; and a block's first token is predicted by the clean block before.
        weights = torch.where(may & (offset == stop), 1.0, weights)
        weights = torch.where(may & (offset == 0), 1.0, weights)
        weights = torch.where(place == 0, 0.0, weights)
        source = torch.where(offset == 0, ids.numel() + source - 1, source - 1).clamp(min=0)

    total = ids.numel()
    border = start + block * size
    noisy = torch.where(masked, MASK, ids)
    none = torch.zeros_like(border)
    return Work(
        ids=torch.cat((noisy.flatten(), ids.flatten())),
        positions=torch.cat((place.flatten(), place.flatten())),
        spans=Spans(
            low=torch.cat(((total + start).flatten(), (total + start).flatten())).int(),
            high=torch.cat(((total + border).flatten(), (total + border + size).flatten())).int(),
            low2=torch.cat((border.flatten(), none.flatten())).int(),
            high2=torch.cat(((border + stop).flatten(), none.flatten())).int(),
        ),
        source=source.flatten(),
        targets=ids.flatten(),
        weights=(weights / may.sum().clamp(min=1)).flatten(),
    )
