"""The Qwen3 dense decoder, which SDAR shares key for key.

Positions are flat and ragged, without a batch dimension, and attention is the plan's block staircase: one
forward serves prompts, pending tokens and masks of many requests.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimus_kernels.linear import gated_linear, linear
from optimus_kernels.norm import rms_norm
from optimus_kernels.paged_attention import AttentionPlan, paged_attention
from optimus_kernels.rotary import norm_rotate_store
from optimus_server.models.cache import KVCache
from optimus_server.models.config import ModelConfig
from optimus_server.models.layers import parameter, rope_tables


class DecoderLayer(nn.Module):
    """Attention with per-head q/k norms and a gated MLP, each behind a norm and a residual.

    Weights that read the same input are one matrix: ``qkv`` and ``gate_up``. The q and k norms are one too:
    ``qk_norm`` holds q's vector once per query head, then k's once per KV head.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.eps = config.rms_norm_eps
        hidden, qk_heads = config.hidden_size, config.heads + config.kv_heads
        bias = config.attention_bias
        qkv_rows = (qk_heads + config.kv_heads) * config.head_dim
        self.attention_norm = parameter(hidden)
        self.qkv = parameter(qkv_rows, hidden)
        self.qkv_bias = parameter(qkv_rows) if bias else None
        self.qk_norm = parameter(qk_heads * config.head_dim)
        self.out = parameter(hidden, config.heads * config.head_dim)
        self.out_bias = parameter(hidden) if bias else None
        self.mlp_norm = parameter(hidden)
        self.gate_up = parameter(2 * config.intermediate_size, hidden)
        self.down = parameter(hidden, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        rope: Tensor,
        positions: Tensor,
        pages: tuple[Tensor, Tensor],
        plan: AttentionPlan,
    ) -> tuple[Tensor, Tensor]:
        """x and the residual it is yet to be added to, both [n, hidden] -> the same for the next layer.

        The norms add: they read and write these values anyway.
        """
        n = x.shape[0]
        normed, residual = rms_norm(x, self.attention_norm, self.eps, residual)
        # [n, heads + 2 * kv_heads, head_dim]
        qkv = linear(normed, self.qkv, self.qkv_bias).view(n, -1, self.head_dim)
        qk_norm = self.qk_norm.view(-1, self.head_dim)
        q = norm_rotate_store(qkv, qk_norm, self.eps, rope, positions, plan.slots, *pages)
        attended = paged_attention(q, *pages, plan).view(n, -1)
        normed, residual = rms_norm(linear(attended, self.out, self.out_bias), self.mlp_norm, self.eps, residual)
        return linear(gated_linear(normed, self.gate_up), self.down), residual


class Qwen3(nn.Module):
    """Embedding, decoder layers, final norm and head; see ``forward`` and ``logits``."""

    rope: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = parameter(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = parameter(config.hidden_size)
        self.head = parameter(config.vocab_size, config.hidden_size)

    def sources(self) -> Iterator[tuple[str, list[tuple[str, int]]]]:
        """For each parameter, the checkpoint tensors (name, rows) that make it, one below the other."""
        config = self.config
        hidden, ffn = config.hidden_size, config.intermediate_size
        q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        yield "embedding", [("model.embed_tokens.weight", config.vocab_size)]
        yield "norm", [("model.norm.weight", hidden)]
        yield "head", [("lm_head.weight", config.vocab_size)]
        for i in range(config.layers):
            ours, theirs = f"layers.{i}", f"model.layers.{i}"
            attention = f"{theirs}.self_attn"
            qkv = [(f"{attention}.q_proj", q), (f"{attention}.k_proj", kv), (f"{attention}.v_proj", kv)]
            q_norm, k_norm = f"{attention}.q_norm.weight", f"{attention}.k_norm.weight"
            yield f"{ours}.attention_norm", [(f"{theirs}.input_layernorm.weight", hidden)]
            yield f"{ours}.qkv", [(f"{name}.weight", rows) for name, rows in qkv]
            norms = [q_norm] * config.heads + [k_norm] * config.kv_heads
            yield f"{ours}.qk_norm", [(name, config.head_dim) for name in norms]
            yield f"{ours}.out", [(f"{attention}.o_proj.weight", hidden)]
            if config.attention_bias:
                yield f"{ours}.qkv_bias", [(f"{name}.bias", rows) for name, rows in qkv]
                yield f"{ours}.out_bias", [(f"{attention}.o_proj.bias", hidden)]
            yield f"{ours}.mlp_norm", [(f"{theirs}.post_attention_layernorm.weight", hidden)]
            gate, up = f"{theirs}.mlp.gate_proj.weight", f"{theirs}.mlp.up_proj.weight"
            yield f"{ours}.gate_up", [(gate, ffn), (up, ffn)]
            yield f"{ours}.down", [(f"{theirs}.mlp.down_proj.weight", hidden)]

    def prepare(self) -> None:
        """Compute what the checkpoint does not hold, once the weights are on their device."""
        config, weight = self.config, self.norm
        # a canvas is whole blocks, so its last one may reach beyond the last position of an answer
        positions = -(-config.max_position_embeddings // config.block_size) * config.block_size
        table = rope_tables(positions, config.head_dim, config.rope_theta, device=weight.device, dtype=weight.dtype)
        self.register_buffer("rope", table, persistent=False)

    @torch.inference_mode()
    def forward(self, ids: Tensor, positions: Tensor, kv: KVCache, plan: AttentionPlan) -> Tensor:
        """Run all layers over the positions of a step; their K and V are written to the cache.

        Args:
            ids, positions: LongTensor [n], the step's rows one after the other, in the plan's order.

        Returns:
            [n, hidden], before the final norm, which ``logits`` applies to the rows that need it.
        """
        x, residual = F.embedding(ids, self.embedding), None
        for layer, pages in zip(self.layers, kv.layers, strict=True):
            x, residual = layer(x, residual, self.rope, positions, pages, plan)
        return x if residual is None else x + residual

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [m, hidden] -> [m, vocab]."""
        return F.linear(rms_norm(hidden, self.norm, self.config.rms_norm_eps)[0], self.head)
