"""Tiny random checkpoints in the layout of Hugging Face, and the same weights as transformers' own model.

With weights this random, confidences spread over (0, 1), about two fifths of them above 0.9, so every
unmasking rule has something to decide.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

Flavour = Literal["qwen3", "sdar", "sdar_shift"]
VOCAB, MASK_ID, EOS_IDS = 73, 72, (70, 71)


def tiny_checkpoint(
    path: Path,
    flavour: Flavour = "sdar",
    *,
    block_size: int = 8,
    seed: int = 0,
    shard_bytes: int | None = None,
    **overrides: Any,
) -> Path:
    """Write a checkpoint directory of about 30,000 weights, a pure function of the arguments, and return it.

    Args:
        block_size: of the two diffusion flavours.
        shard_bytes: split the weights into files of at most this size, with an index.
        overrides: fields of Qwen3Config.
    """
    shape: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
        "eos_token_id": list(EOS_IDS),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**shape | overrides))
        with torch.no_grad():
            for module in model.modules():
                # norms and biases are born as ones and zeros, which would hide that they are ignored
                if isinstance(module, Qwen3RMSNorm):
                    module.weight.uniform_(0.5, 1.5)
                if isinstance(module, torch.nn.Linear) and module.bias is not None:
                    module.bias.normal_(std=0.3)
            if not model.config.tie_word_embeddings:
                model.lm_head.weight.mul_(4)
    size = {} if shard_bytes is None else {"max_shard_size": shard_bytes}
    model.save_pretrained(path, **size)
    if flavour != "qwen3":
        edit_json(path / "config.json", model_type=flavour, block_size=block_size, mask_token_id=MASK_ID)
    if flavour == "sdar_shift":
        edit_json(path / "config.json", logit_shift=1)
    return path


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; the value ``...`` removes one."""
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def reference_model(path: Path, dtype: torch.dtype = torch.float64) -> Qwen3ForCausalLM:
    """Transformers' model with a checkpoint's weights, whatever its flavour.

    In float64 its norms, which compute in float32, are replaced, so that two correct programs agree to 1e-10
    and no threshold can flip.
    """
    fields = json.loads((path / "config.json").read_text())
    model = Qwen3ForCausalLM(Qwen3Config(**fields | {"model_type": "qwen3", "dtype": None}))
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights |= load_file(file)
    absent = model.load_state_dict(weights, strict=False).missing_keys
    assert absent == (["lm_head.weight"] if model.config.tie_word_embeddings else [])
    model = model.to(dtype).eval()
    if dtype is torch.float64:
        for norm in model.modules():
            if isinstance(norm, Qwen3RMSNorm):
                norm.forward = _norm_in_own_type(norm)
    return model


def _norm_in_own_type(norm: Qwen3RMSNorm) -> Any:
    return lambda x: F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
