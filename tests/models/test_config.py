import json
from pathlib import Path
from typing import Any

import pytest

from optimus_server.errors import ModelError
from optimus_server.models.config import FAMILIES, load_config
from optimus_server.models.registry import ARCHITECTURES

FIELDS: dict[str, Any] = {
    "model_type": "sdar",
    "vocab_size": 200_000,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rope_theta": 1_000_000,
    "eos_token_id": 7,
}


def write(path: Path, generation: dict[str, Any] | None = None, **fields: Any) -> Path:
    """A directory with the FIELDS above, changed; the value ``...`` removes a field."""
    path.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in (FIELDS | fields).items() if value is not ...}
    (path / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


def test_every_family_has_an_architecture() -> None:
    assert FAMILIES.keys() == ARCHITECTURES.keys()


def test_sdar_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert (config.block_size, config.mask_token_id, config.logit_shift) == (4, 151669, 0)
    assert (config.threshold, config.rms_norm_eps, config.attention_bias) == (0.9, 1e-6, False)
    assert (config.rope_theta, config.heads, config.kv_heads, config.layers) == (1e6, 4, 2, 2)


def test_shifted_sdar(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, model_type="sdar_shift", logit_shift=1, block_size=32, mask_token_id=3, threshold=0.8)
    )
    assert (config.block_size, config.mask_token_id, config.logit_shift) == (32, 3, 1)
    assert config.threshold == 0.8


def test_qwen3_is_autoregressive(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "Qwen3-b8", model_type="qwen3"))
    assert (config.block_size, config.mask_token_id, config.logit_shift) == (1, None, 1)
    with pytest.raises(ModelError, match="block size 1, got 8"):
        load_config(tmp_path / "Qwen3-b8", block_size=8)


@pytest.mark.parametrize(
    ("directory", "in_file", "argument", "expected"),
    [
        ("SDAR-4B-Chat", None, None, 4),
        ("SDAR-4B-Chat-b32", None, None, 32),
        ("models--JetLM--SDAR-4B-Chat-b16/snapshots/0a1b2c", None, None, 16),
        ("SDAR-4B-Chat-b32", 8, None, 8),
        ("SDAR-4B-Chat-b32", 8, 64, 64),
        ("SDAR-b0", None, None, 4),
    ],
)
def test_block_size_comes_from_argument_file_name_or_default(
    tmp_path: Path, directory: str, in_file: int | None, argument: int | None, expected: int
) -> None:
    path = write(tmp_path / directory, block_size=in_file)
    assert load_config(path, block_size=argument).block_size == expected


def test_mask_id_can_be_given(tmp_path: Path) -> None:
    write(tmp_path, vocab_size=100)
    assert load_config(tmp_path, mask_token_id=0).mask_token_id == 0
    with pytest.raises(ModelError, match=r"mask token id 151669 is outside the vocabulary \(vocab_size 100\)"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("in_config", "in_generation", "expected"),
    [
        (7, None, {7}),
        (7, {"eos_token_id": [8, 9]}, {8, 9}),
        (7, {}, {7}),
        (None, None, set()),
        ([1, 2], None, {1, 2}),
    ],
)
def test_end_tokens(tmp_path: Path, in_config: Any, in_generation: Any, expected: set[int]) -> None:
    write(tmp_path, in_generation, eos_token_id=in_config)
    assert load_config(tmp_path).eos_token_ids == expected


def test_rope_theta_of_transformers_5(tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": 5000.0}
    assert load_config(write(tmp_path, rope_theta=..., rope_parameters=rope)).rope_theta == 5000


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": None, "use_sliding_window": False, "sliding_window": 4096},
        {"rope_scaling": {"type": "default"}, "hidden_act": "silu"},
        {"layer_types": ["full_attention"] * 2},
    ],
)
def test_harmless_fields_are_accepted(tmp_path: Path, fields: dict[str, Any]) -> None:
    load_config(write(tmp_path, **fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "llama"}, 'model_type is "llama"; supported: qwen3, sdar, sdar_shift'),
        ({"model_type": ...}, "model_type is missing"),
        ({"hidden_act": "gelu"}, 'hidden_act is "gelu"; supported: "silu"'),
        ({"use_sliding_window": True}, "use_sliding_window is true; supported: false"),
        ({"use_regular_causal": True}, "use_regular_causal is true"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types is"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 'rope_scaling is {"type": "yarn"'),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters is"),
        ({"rope_scaling": "yarn"}, 'rope_scaling is "yarn"; expected an object'),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; supported: 1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"vocab_size": ...}, "vocab_size is missing; expected a positive integer"),
        ({"vocab_size": "1024"}, 'vocab_size is "1024"; expected a positive integer'),
        ({"num_hidden_layers": True}, "num_hidden_layers is true; expected a positive integer"),
        ({"hidden_size": -1}, "hidden_size is -1; expected a positive integer"),
        ({"num_key_value_heads": 3}, r"num_key_value_heads is 3; it must divide num_attention_heads (4)"),
        ({"head_dim": 15}, "head_dim is 15; rotary embedding needs an even number"),
        ({"rope_theta": 0}, "rope_theta is 0; expected a positive number"),
        ({"rms_norm_eps": "small"}, 'rms_norm_eps is "small"; expected a positive number'),
        ({"block_size": 0}, "block_size is 0; expected a positive integer"),
        ({"mask_token_id": "M"}, 'mask_token_id is "M"; expected a token id'),
        ({"logit_shift": 2}, "logit_shift is 2; expected 0 or 1"),
        ({"logit_shift": 1}, "logit_shift is 1; model_type sdar has 0"),
        ({"threshold": 1.5}, "threshold is 1.5; a confidence threshold lies in (0, 1]"),
        ({"eos_token_id": "</s>"}, 'eos_token_id is "</s>"; expected token ids below vocab_size'),
        ({"eos_token_id": [200_000]}, "eos_token_id is [200000]"),
    ],
)
def test_refuses(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_config(write(tmp_path, **fields))
    assert caught.value.message.startswith(f"{tmp_path / 'config.json'}: {message}")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", b"\xff\xfe"])
def test_unreadable_json(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=r"config\.json (cannot be read as JSON|must hold a JSON object)"):
        load_config(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_config(tmp_path)
    with pytest.raises(ModelError, match="block size must be a positive integer, got 0"):
        load_config(write(tmp_path), block_size=0)
