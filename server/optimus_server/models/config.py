"""What a checkpoint says about itself: config.json and generation_config.json -> a valid ModelConfig.

Whatever would silently change the output if it were ignored is an error that names file, field, value and
what is supported.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimus_server.errors import ModelError

DEFAULT_THRESHOLD = 0.9


@dataclass(frozen=True)
class Family:
    """What a model_type fixes or defaults to when config.json is silent.

    Attributes:
        logit_shift: 1 when the output at position p - 1 predicts the token of p, 0 when the output at p does.
        block_size, mask_token_id: defaults of the family's published checkpoints.
        autoregressive: the family has blocks of one position and no mask token.
    """

    logit_shift: int
    block_size: int = 4
    mask_token_id: int | None = 151669
    autoregressive: bool = False


FAMILIES = {
    "qwen3": Family(logit_shift=1, block_size=1, mask_token_id=None, autoregressive=True),
    "sdar": Family(logit_shift=0),
    "sdar_shift": Family(logit_shift=1),
}


@dataclass(frozen=True)
class ModelConfig:
    """A checkpoint's architecture and decoding facts; every field is valid once it exists.

    Attributes:
        tie_word_embeddings: the embedding is the head if the checkpoint holds no head; true by default.
        block_size: positions that attend to each other both ways; 1 is an autoregressive model.
        mask_token_id: None only for autoregressive models, whose block_size is 1.
        eos_token_ids: any of these ends an answer; may be empty.
        logit_shift: see ``Family``.
        threshold: confidence above which a masked position commits, unless a request says otherwise.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    attention_bias: bool
    tie_word_embeddings: bool
    max_position_embeddings: int
    block_size: int
    mask_token_id: int | None
    eos_token_ids: frozenset[int]
    logit_shift: int
    threshold: float


def load_config(path: str | Path, *, block_size: int | None = None, mask_token_id: int | None = None) -> ModelConfig:
    """Read the configuration of a checkpoint directory.

    Args:
        path: HF-layout directory; config.json is required, generation_config.json is read for end tokens if
            present.
        block_size, mask_token_id: override what the files say.

    Raises:
        ModelError: a missing or unreadable file, a missing or invalid field, or a feature that is not
            supported.
    """
    path = Path(path)
    if not path.is_dir():
        raise ModelError(f"model directory {path} does not exist or is not a directory", param="model")
    config = _Fields(path / "config.json", read_json(path / "config.json"))
    generation_path = path / "generation_config.json"
    generation = _Fields(generation_path, read_json(generation_path) if generation_path.exists() else {})

    model_type = config.get("model_type", str, "a string")
    if model_type not in FAMILIES:
        raise config.unsupported("model_type", f"supported: {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[model_type]
    _refuse_unsupported(config)

    vocab_size = config.positive("vocab_size")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", heads)
    if heads % kv_heads:
        raise config.unsupported("num_key_value_heads", f"it must divide num_attention_heads ({heads})")
    hidden_size = config.positive("hidden_size")
    head_dim = config.positive("head_dim", hidden_size // heads or 1)
    if head_dim % 2:
        raise config.unsupported("head_dim", "rotary embedding needs an even number")

    return ModelConfig(
        model_type=model_type,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=config.positive("intermediate_size"),
        layers=config.positive("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=_rope_theta(config),
        attention_bias=config.get("attention_bias", bool, "true or false", default=False),
        tie_word_embeddings=config.get("tie_word_embeddings", bool, "true or false", default=True),
        max_position_embeddings=config.positive("max_position_embeddings"),
        block_size=_block_size(config, family, path, block_size),
        mask_token_id=_mask_token_id(config, family, vocab_size, mask_token_id),
        eos_token_ids=_eos_token_ids(config, generation, vocab_size),
        logit_shift=_logit_shift(config, family, model_type),
        threshold=_threshold(config),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ModelError when the file is missing, unreadable or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing", param="model") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}", param="model") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, found {type(value).__name__}", param="model")
    return value


class _Fields:
    """Typed access to one file's fields; every error names the file, the field and its value."""

    def __init__(self, file: Path, values: Mapping[str, Any]) -> None:
        self.file = file
        self.values = values

    def unsupported(self, name: str, why: str) -> ModelError:
        return ModelError(f"{self.file}: {name} is {json.dumps(self.values.get(name))}; {why}", param="model")

    def get(self, name: str, kind: type[Any], expected: str, *, default: Any = None) -> Any:
        """The field, or ``default`` if absent or null; ModelError if that is None or the type is wrong."""
        value = self.values.get(name)
        if value is None:
            if default is None:
                raise ModelError(f"{self.file}: {name} is missing; expected {expected}", param="model")
            return default
        if kind is float and type(value) is int:
            value = float(value)
        # bool is an int in Python, but `"num_hidden_layers": true` is a mistake
        if type(value) is not kind:
            raise self.unsupported(name, f"expected {expected}")
        return value

    def positive(self, name: str, default: int | None = None) -> int:
        value: int = self.get(name, int, "a positive integer", default=default)
        if value < 1:
            raise self.unsupported(name, "expected a positive integer")
        return value

    def number(self, name: str, default: float) -> float:
        value: float = self.get(name, float, "a positive number", default=default)
        if not 0 < value < float("inf"):
            raise self.unsupported(name, "expected a positive number")
        return value


def _refuse_unsupported(config: _Fields) -> None:
    """Features of Qwen3-like checkpoints that change the output and are not implemented."""
    only: dict[str, tuple[Any, ...]] = {
        "hidden_act": ("silu",),
        "use_sliding_window": (False,),
        "use_regular_causal": (False,),
        "partial_rotary_factor": (1, 1.0),
    }
    for name, supported in only.items():
        value = config.values.get(name)
        if value is not None and value not in supported:
            raise config.unsupported(name, f"supported: {json.dumps(supported[0])}")
    if any(kind != "full_attention" for kind in config.values.get("layer_types") or ()):
        raise config.unsupported("layer_types", 'supported: "full_attention" in every layer')
    if config.values.get("quantization_config") is not None:
        raise config.unsupported("quantization_config", "quantised checkpoints are not supported")
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.values.get(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise config.unsupported(name, "expected an object or null")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1) != 1:
            raise config.unsupported(name, 'supported: null or rope_type "default" over the whole head')


def _rope_theta(config: _Fields) -> float:
    """``rope_theta``, which transformers 5 writes inside ``rope_parameters``."""
    rope = config.values.get("rope_parameters") or {}
    nested = _Fields(config.file, {"rope_theta": rope.get("rope_theta", config.values.get("rope_theta"))})
    return nested.number("rope_theta", 10_000.0)


def _block_size(config: _Fields, family: Family, path: Path, override: int | None) -> int:
    """Argument, else config.json, else a ``-bN`` suffix of the directory's name, else the family's default.

    A Hugging Face cache directory ``models--ORG--NAME-b32/snapshots/HASH`` has the suffix two levels up.
    """
    if override is not None and override < 1:
        raise ModelError(f"block size must be a positive integer, got {override}", param="block_size")
    absolute = Path(os.path.abspath(path))
    name = absolute.parent.parent.name if absolute.parent.name == "snapshots" else absolute.name
    suffix = re.search(r"-b([1-9]\d{0,3})$", name)
    default = int(suffix[1]) if suffix and not family.autoregressive else family.block_size
    size = config.positive("block_size", default) if override is None else override
    if family.autoregressive and size != 1:
        raise ModelError(
            f"{config.file}: an autoregressive model decodes with block size 1, got {size}",
            param="block_size",
        )
    return size


def _mask_token_id(config: _Fields, family: Family, vocab_size: int, override: int | None) -> int | None:
    if family.autoregressive:
        return None
    mask = override
    if mask is None:
        mask = config.get("mask_token_id", int, "a token id", default=family.mask_token_id)
    if not 0 <= mask < vocab_size:
        raise ModelError(
            f"{config.file}: mask token id {mask} is outside the vocabulary (vocab_size {vocab_size}); "
            "set mask_token_id in the file or by the argument",
            param="mask_token_id",
        )
    return mask


def _logit_shift(config: _Fields, family: Family, model_type: str) -> int:
    shift: int = config.get("logit_shift", int, "0 or 1", default=family.logit_shift)
    if shift not in (0, 1):
        raise config.unsupported("logit_shift", "expected 0 or 1")
    if shift != family.logit_shift:
        raise config.unsupported("logit_shift", f"model_type {model_type} has {family.logit_shift}")
    return shift


def _threshold(config: _Fields) -> float:
    threshold = config.number("threshold", DEFAULT_THRESHOLD)
    if threshold > 1:
        raise config.unsupported("threshold", "a confidence threshold lies in (0, 1]")
    return threshold


def _eos_token_ids(config: _Fields, generation: _Fields, vocab_size: int) -> frozenset[int]:
    """End tokens: generation_config.json's if it names any, else config.json's."""
    source = generation if generation.values.get("eos_token_id") is not None else config
    value = source.values.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and 0 <= i < vocab_size for i in ids):
        raise source.unsupported("eos_token_id", f"expected token ids below vocab_size ({vocab_size})")
    return frozenset(ids)
