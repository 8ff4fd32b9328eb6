"""The loss and the optimiser step, shared by both objectives."""

import torch
from torch import Tensor
from torch.nn import functional as F

from optimus_server.demo.network import Network

_Z = 1e-4  # keeps log Z near 0, so that ids that are never a target sink to about -10


def weighted_loss(hidden: Tensor, head: Tensor, source: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Sum of weighted cross-entropies, plus a small penalty on log Z squared. hidden: [L, C]; head: [V, C]."""
    logits = F.linear(hidden.index_select(0, source), head).float()
    log_z = logits.logsumexp(-1)
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    return ((log_z - chosen + _Z * log_z.square()) * weights).sum()


def optimizer(network: Network, learning_rate: float) -> torch.optim.AdamW:
    """AdamW; decay on matrices only, since norms and embeddings have their own scale."""
    matrices = [p for name, p in network.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in network.named_parameters() if p.dim() != 2 or "embed" in name]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    fused = next(network.parameters()).is_cuda
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-8, fused=fused)


def schedule(step: int, steps: int, warm_up: int) -> float:
    """Fraction of the peak learning rate: linear warm-up, then cosine to 2 %."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return float(0.02 + 0.98 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done))))
