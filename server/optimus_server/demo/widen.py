"""The demo model in the geometry of a large one, with the same function: real decoding behaviour at a real price.

The small model's hidden dimensions, heads, neurons and layers come first and do what they did. The residual stream
beyond them stays exactly zero, because nothing writes there; what reads there is random, so that the arithmetic is that
of a trained model (matrices of zeros run faster). Nothing random reaches the output:

    embedding      small columns, then zeros; the target's mask id has the small mask's row
    norms          sqrt(d / H) x the small weight, since the mean square is now taken over H dimensions of which d are
                   used; epsilon x d / H. Exact in bf16 if H / d is a power of 4, else rounded
    q, k, v        small heads in live slots; k and v are repeated where the target has fewer query heads per KV head
    o, down        rows beyond d and columns of dead heads and neurons are zero
    extra layers   random, but o and down are zero: they add nothing
    head           rows beyond the small vocabulary are twice a row that training never rewarded

Plain copies of that row, 150,912 in SDAR's vocabulary, take more than 1e-4 of the probability at times. Its logits are
below -9, so doubled, which bf16 does exactly, they take less than 1e-6 (tests/demo/test_widen.py looks at all three).
"""

import json
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimus_server.demo.plan import Shape
from optimus_server.demo.tokenizer import RESERVED
from optimus_server.errors import ModelError
from optimus_server.models.config import ModelConfig, load_config, read_json

SDAR_MASK = 151669
SHARD_BYTES = 2 * 10**9
_STD = 0.02
_CARD = """# {name}

A benchmark checkpoint: the Optimus demo model `{source}` in the geometry of a larger one, written by
`optimus demo widen` with seed {seed}. It costs what that geometry costs and answers what the demo model answers; it
knows nothing else.
"""


def shape_of(config: ModelConfig) -> Shape:
    """A checkpoint's geometry."""
    return Shape(
        config.vocab_size, config.hidden_size, config.layers, config.heads, config.kv_heads, config.head_dim,
        config.intermediate_size, config.rope_theta, config.rms_norm_eps, config.max_position_embeddings,
    )  # fmt: skip


def widen(
    source: Path,
    out: Path,
    target: Shape,
    *,
    mask_token_id: int | None = None,
    autoregressive: bool = False,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD_BYTES,
    report: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write ``source`` in the geometry ``target`` to the new directory ``out``, shard by shard, and return it.

    Memory holds one shard and one tensor at a time. The same seed gives the same bytes on the same kind of device.

    Args:
        mask_token_id: the source's if None.
        autoregressive: write a Qwen3 checkpoint, whose blocks have one position; needs shifted logits.

    Raises:
        ModelError: the source does not fit into the target, by name of the size; ``out`` exists; the disk is full.
    """
    config = load_config(source)
    small = shape_of(config)
    mask = config.mask_token_id if mask_token_id is None else mask_token_id
    _check(config, small, target, mask, autoregressive)
    if out.exists():
        raise ModelError(f"{out} exists; name a new directory", param="out")
    sizes = dict(_shapes(target))
    total = sum(math.prod(shape) for shape in sizes.values()) * dtype.itemsize
    out.parent.mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(out.parent).free):
        raise ModelError(f"{out} needs {total / 1e9:.1f} GB, the disk has {free / 1e9:.1f} free", param="out")

    weights = {name: value.to(device, torch.float32) for name, value in _load(source).items()}
    if "lm_head.weight" not in weights or config.attention_bias:
        raise ModelError(f"{source}: only checkpoints with a head of their own and without biases can be widened")
    maker = _Maker(weights, small, target, (config.mask_token_id, mask), seed, torch.device(device), dtype)
    shards = list(_shards(sizes, dtype.itemsize, shard_bytes))
    out.mkdir()
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: maker.make(name, sizes[name]).cpu() for name in names}, out / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
        report(f"{file}: {sum(math.prod(sizes[name]) for name in names) * dtype.itemsize / 1e9:.2f} GB")
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(source / name, out / name)
    (out / "README.md").write_text(_CARD.format(name=out.name, source=source.name, seed=seed))
    _write(out / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    # The last file: a directory without it cannot be loaded.
    _write(out / "config.json", _config(source, target, small, mask, autoregressive, dtype))
    return out


def _check(config: ModelConfig, small: Shape, target: Shape, mask: int | None, autoregressive: bool) -> None:
    for name in ("vocabulary", "hidden", "layers", "ffn"):
        if getattr(target, name) < getattr(small, name):
            raise ModelError(f"{name} must be >= {getattr(small, name)}, the source's. Given: {getattr(target, name)}")
    if target.head_dim != small.head_dim:
        raise ModelError(f"head_dim must be {small.head_dim}, the source's. Given: {target.head_dim}")
    if target.kv_heads < 1 or target.heads % target.kv_heads:
        raise ModelError(f"heads must be a multiple of kv_heads. Given: {target.heads} and {target.kv_heads}")
    if (needed := small.kv_heads * _copies(small, target)) > target.kv_heads:
        per_small, per_target = small.heads // small.kv_heads, target.heads // target.kv_heads
        raise ModelError(
            f"kv_heads must be >= {needed}: the source has {small.kv_heads} x {per_small} query heads, "
            f"the target {per_target} a KV head. Given: {target.kv_heads}"
        )
    if autoregressive and not config.logit_shift:
        raise ModelError("an autoregressive model needs shifted logits; in this checkpoint position p predicts itself")
    if not autoregressive and (mask is None or not 0 <= mask < target.vocabulary):
        raise ModelError(f"mask_token_id must be < {target.vocabulary}, the vocabulary. Given: {mask}")


def _copies(small: Shape, target: Shape) -> int:
    """KV heads of the target that share one small KV head's queries.

    Small 4 query heads a KV head, target 2: 2.  Target 4 or 8: 1.
    """
    return -(-(small.heads // small.kv_heads) // (target.heads // target.kv_heads))


def _shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of all tensors, in the order they are written."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", (shape.hidden,)
        yield f"{name}.self_attn.q_proj.weight", (q, shape.hidden)
        yield f"{name}.self_attn.k_proj.weight", (kv, shape.hidden)
        yield f"{name}.self_attn.v_proj.weight", (kv, shape.hidden)
        yield f"{name}.self_attn.o_proj.weight", (shape.hidden, q)
        yield f"{name}.self_attn.q_norm.weight", (shape.head_dim,)
        yield f"{name}.self_attn.k_norm.weight", (shape.head_dim,)
        yield f"{name}.post_attention_layernorm.weight", (shape.hidden,)
        yield f"{name}.mlp.gate_proj.weight", (shape.ffn, shape.hidden)
        yield f"{name}.mlp.up_proj.weight", (shape.ffn, shape.hidden)
        yield f"{name}.mlp.down_proj.weight", (shape.hidden, shape.ffn)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (shape.vocabulary, shape.hidden)


def _shards(sizes: dict[str, tuple[int, ...]], itemsize: int, limit: int) -> Iterator[list[str]]:
    """Names in order, as many a shard as fit ``limit`` bytes; a larger tensor has a shard of its own."""
    shard: list[str] = []
    held = 0
    for name, shape in sizes.items():
        size = math.prod(shape) * itemsize
        if shard and held + size > limit:
            yield shard
            shard, held = [], 0
        shard.append(name)
        held += size
    yield shard


@dataclass(frozen=True)
class _Maker:
    """Makes the target's tensors one by one; ``masks`` are the small mask id and the target's."""

    weights: dict[str, Tensor]
    small: Shape
    target: Shape
    masks: tuple[int | None, int | None]
    seed: int
    device: torch.device
    dtype: torch.dtype

    def make(self, name: str, shape: tuple[int, ...]) -> Tensor:
        kind = name.removesuffix(".weight").rpartition(".")[2]
        live = self.weights.get(name)
        if len(shape) == 1:
            return self._norm(shape, live, is_head=kind in ("q_norm", "k_norm"))
        if kind in ("o_proj", "down_proj"):
            wide = torch.zeros(shape, device=self.device, dtype=self.dtype)
            if live is not None:
                # transposed, the columns of heads or neurons are rows
                self._put(wide.T, live.T, kind)
            return wide
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        wide = torch.empty(shape, device=self.device, dtype=self.dtype).normal_(0, _STD, generator=generator)
        if live is not None:
            self._put(wide, live, kind)
        return wide

    def _norm(self, shape: tuple[int, ...], live: Tensor | None, *, is_head: bool) -> Tensor:
        wide = torch.ones(shape, device=self.device)
        if live is not None:
            wide[: len(live)] = live * (1.0 if is_head else math.sqrt(self.small.hidden / self.target.hidden))
        return wide.to(self.dtype)

    def _put(self, wide: Tensor, live: Tensor, kind: str) -> None:
        """Write the small rows where they belong: [rows, H] <- [small rows, d]."""
        d, vocabulary = self.small.hidden, self.small.vocabulary
        if kind == "embed_tokens":
            wide[:, :d] = live[RESERVED[0]]
            wide[:, d:] = 0
            wide[:vocabulary, :d] = live
            if None not in self.masks:
                wide[self.masks[1], :d] = live[self.masks[0]]
        elif kind == "lm_head":
            wide[:, :d] = 2 * live[RESERVED[0]]
            wide[:vocabulary, :d] = live
        elif kind in ("q_proj", "o_proj", "k_proj", "v_proj"):
            size = self.small.head_dim
            for small, slot in self._slots(queries=kind in ("q_proj", "o_proj")):
                wide[slot * size : (slot + 1) * size, :d] = live[small * size : (small + 1) * size]
        else:
            wide[: self.small.ffn, :d] = live

    def _slots(self, *, queries: bool) -> Iterator[tuple[int, int]]:
        """(small head, its slot in the target); a small KV head has a slot for each group of its queries.

        Small 4 query heads and 1 KV head, target 2 a KV head: queries 0 1 2 3 -> 0 1 2 3, KV 0 -> 0 and 1.
        """
        copies = _copies(self.small, self.target)
        if not queries:
            yield from ((slot // copies, slot) for slot in range(self.small.kv_heads * copies))
            return
        per_small = self.small.heads // self.small.kv_heads
        per_target = self.target.heads // self.target.kv_heads
        for head in range(self.small.heads):
            kv, rank = divmod(head, per_small)
            yield head, kv * copies * per_target + rank


def _load(source: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        weights |= load_file(file)
    return weights


def _config(
    source: Path, target: Shape, small: Shape, mask: int | None, autoregressive: bool, dtype: torch.dtype
) -> dict[str, Any]:
    fields = read_json(source / "config.json") | {
        "vocab_size": target.vocabulary,
        "hidden_size": target.hidden,
        "intermediate_size": target.ffn,
        "num_hidden_layers": target.layers,
        "max_window_layers": target.layers,
        "num_attention_heads": target.heads,
        "num_key_value_heads": target.kv_heads,
        "max_position_embeddings": target.context,
        "rms_norm_eps": small.eps * small.hidden / target.hidden,
        "mask_token_id": mask,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if autoregressive:
        for name in ("block_size", "mask_token_id", "logit_shift"):
            fields.pop(name, None)
        fields |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    return fields


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
