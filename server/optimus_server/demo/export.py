"""The network as a Hugging Face directory: config, bf16 safetensors, tokenizer, chat template."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from optimus_server.demo.corpus import BLOCK
from optimus_server.demo.network import Network
from optimus_server.demo.plan import Shape
from optimus_server.demo.tokenizer import END, MASK, PAD, save_tokenizer

# Without shift the model is plain SDAR, which other engines load. With shift it has a name of its own, so that an
# engine that knows no shift refuses it instead of answering nonsense.
_FAMILIES = {0: ("sdar", "SDARForCausalLM"), 1: ("sdar_shift", "SDARShiftForCausalLM")}


def config(shape: Shape, shift: int) -> dict[str, Any]:
    """config.json of a checkpoint."""
    model_type, architecture = _FAMILIES[shift]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "block_size": BLOCK,
        "bos_token_id": None,
        "eos_token_id": END,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        **({"logit_shift": 1} if shift else {}),
        "mask_token_id": MASK,
        "max_position_embeddings": shape.context,
        "max_window_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": PAD,
        "rms_norm_eps": shape.eps,
        "rope_scaling": None,
        "rope_theta": shape.theta,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }


def export(network: Network, tokenizer: Tokenizer, directory: Path, shift: int) -> Path:
    """Write the checkpoint directory and return it."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in network.state_dict().items()
    }
    save_file(weights, str(directory / "model.safetensors"), metadata={"format": "pt"})
    _write(directory / "config.json", config(network.shape, shift))
    _write(directory / "generation_config.json", {"eos_token_id": [END], "pad_token_id": PAD, "do_sample": False})
    save_tokenizer(tokenizer, directory, network.shape.context)
    return directory


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
