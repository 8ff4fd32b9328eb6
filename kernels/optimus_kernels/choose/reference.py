"""Choosing tokens in plain torch: the definition, and what runs on a CPU."""

import torch
from torch import Tensor

from optimus_kernels.choose.plan import Sampling


def choose_reference(
    logits: Tensor, mask_id: int | None, sampling: Sampling | None = None, *, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See ``choose``."""
    logits = logits.to(torch.float64 if logits.dtype is torch.float64 else torch.float32, copy=True)
    if mask_id is not None:
        logits[:, mask_id] = -torch.inf
    if sampling is not None:
        sampled = sampling.temperature > 0
        logits /= torch.where(sampled, sampling.temperature, 1)[:, None].to(logits.dtype)
    logprobs = logits.log_softmax(-1)
    token = logprobs.argmax(-1)
    if sampling is not None and bool(sampled.any()):
        token[sampled] = _draw(
            logprobs[sampled].exp(), sampling.top_k[sampled], sampling.top_p[sampled], sampling.uniform[sampled]
        )
    confidence = logprobs.gather(1, token[:, None])[:, 0].exp()
    return token, confidence, torch.special.entr(logprobs.exp()).sum(-1) if entropy else None


def kept(probs: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """``probs [s, vocab]`` with 0 for what top-k, then top-p, leave out."""
    ranked, order = probs.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(probs.shape[1], device=probs.device)
    ranked = ranked.masked_fill(rank >= top_k[:, None], 0)
    ranked = ranked / ranked.sum(-1, keepdim=True)
    before = ranked.cumsum(-1) - ranked
    # The best token always stays, also where top_p is less than float32 can tell from 0.
    ranked = ranked.masked_fill((before >= top_p[:, None].to(probs.dtype)) & (rank > 0), 0)
    return torch.zeros_like(probs).scatter_(1, order, ranked)


def _draw(probs: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """One token for each row of ``probs [s, vocab]``."""
    cumulative = kept(probs, top_k, top_p).cumsum(-1)
    target = uniform[:, None].to(probs.dtype) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    # Rounding may put the target on the total; the best token is as good as any then. So is any index for NaN.
    return torch.where(chosen < probs.shape[1], chosen, probs.argmax(-1))
