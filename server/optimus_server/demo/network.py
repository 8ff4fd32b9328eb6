"""The demo model for training: a Qwen3/SDAR decoder whose state dict has transformers' names.

Sequences are laid end to end along one axis, and who sees whom is two key ranges per query (``objective.Spans``).
So every mixture of sequence lengths, block sizes and objectives has one shape, and compiles once.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimus_server.demo.attention import Mask, attend
from optimus_server.demo.plan import Shape


class RMSNorm(nn.Module):
    """Root mean square norm, computed in fp32 as Qwen3 does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        normed: Tensor = self.weight * wide
        return normed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, half-split: dimension j is paired with j + d/2. x: [heads, L, d]."""
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, shape.heads * size, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * size, bias=False)
        self.o_proj = nn.Linear(shape.heads * size, shape.hidden, bias=False)
        self.q_norm = RMSNorm(size, shape.eps)
        self.k_norm = RMSNorm(size, shape.eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask) -> Tensor:
        size = self.shape.head_dim
        q = self.q_proj(x).view(-1, self.shape.heads, size).transpose(0, 1)  # [heads, L, d]
        k = self.k_proj(x).view(-1, self.shape.kv_heads, size).transpose(0, 1)
        v = self.v_proj(x).view(-1, self.shape.kv_heads, size).transpose(0, 1)
        q = rotate(self.q_norm(q), cos, sin).to(v.dtype)
        k = rotate(self.k_norm(k), cos, sin).to(v.dtype)
        mixed = attend(q, k, v, mask)
        written: Tensor = self.o_proj(mixed.transpose(0, 1).reshape(x.shape[0], -1))
        return written


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        written: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return written


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Mask) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        written: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + written


class Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.eps)


class Network(nn.Module):
    """``network(ids, positions, mask)``: final hidden states [L, hidden]; ``lm_head`` turns them into logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

    def initialise(self, seed: int) -> None:
        """Normal weights of 0.02, smaller on the two projections that write into the residual stream."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                small = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * self.shape.layers) ** 0.5 if small else 0.02
                weight.data.copy_(torch.randn(weight.shape, generator=generator) * std)

    def forward(self, ids: Tensor, positions: Tensor, mask: Mask) -> Tensor:
        half = torch.arange(0, self.shape.head_dim, 2, device=ids.device, dtype=torch.float32) / self.shape.head_dim
        angles = positions.float()[:, None] * (1.0 / self.shape.theta**half)  # [L, d / 2]
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        normed: Tensor = self.model.norm(x)
        return normed
