from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from optimus_server.errors import ModelError
from optimus_server.models.loader import load_model
from tests.tiny import edit_json, tiny_checkpoint

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def rewrite(path: Path, change: dict[str, Tensor], drop: tuple[str, ...] = ()) -> None:
    weights = load_file(path / WEIGHTS) | change
    save_file({name: tensor for name, tensor in weights.items() if name not in drop}, path / WEIGHTS)


def test_fused_weights_are_the_checkpoints_rows(tmp_path: Path) -> None:
    weights = load_file(tiny_checkpoint(tmp_path) / WEIGHTS)
    layer = load_model(tmp_path).net.layers[1]
    attention = "model.layers.1.self_attn"
    assert torch.equal(layer.qkv, torch.cat([weights[f"{attention}.{x}_proj.weight"] for x in "qkv"]))
    norms = [weights[f"{attention}.q_norm.weight"]] * 4 + [weights[f"{attention}.k_norm.weight"]] * 2
    assert torch.equal(layer.qk_norm, torch.cat(norms))


def test_types_and_places(tmp_path: Path) -> None:
    net = load_model(tiny_checkpoint(tmp_path)).net
    assert {(p.dtype, p.device.type, p.requires_grad) for p in net.parameters()} == {(torch.float32, "cpu", False)}
    net = load_model(tmp_path, dtype=torch.bfloat16).net
    assert {p.dtype for p in [*net.parameters(), net.rope]} == {torch.bfloat16}


def test_shards_give_the_same_weights(tmp_path: Path) -> None:
    whole = load_model(tiny_checkpoint(tmp_path / "whole")).net.state_dict()
    sharded = tiny_checkpoint(tmp_path / "sharded", shard_bytes=30_000)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    loaded = load_model(sharded).net.state_dict()
    assert whole.keys() == loaded.keys()
    assert all(torch.equal(whole[name], loaded[name]) for name in whole)


def test_tied_embeddings_share_memory(tmp_path: Path) -> None:
    net = load_model(tiny_checkpoint(tmp_path, tie_word_embeddings=True)).net
    assert net.head is net.embedding
    # some tied checkpoints carry the head all the same
    rewrite(tmp_path, {"lm_head.weight": net.embedding.clone()})
    net = load_model(tmp_path).net
    assert net.head is net.embedding


def test_a_head_in_the_checkpoint_wins_over_the_flag(tmp_path: Path) -> None:
    head = load_file(tiny_checkpoint(tmp_path) / WEIGHTS)["lm_head.weight"]
    edit_json(tmp_path / "config.json", tie_word_embeddings=True)
    assert torch.equal(load_model(tmp_path).net.head, head)


def test_a_silent_config_ties_when_there_is_no_head(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    rewrite(tmp_path, {}, drop=("lm_head.weight",))
    with pytest.raises(ModelError, match=r"lacks 1 tensors: lm_head\.weight"):
        load_model(tmp_path)
    edit_json(tmp_path / "config.json", tie_word_embeddings=...)
    net = load_model(tmp_path).net
    assert net.head is net.embedding


def test_stored_rotary_frequencies_are_ignored(tmp_path: Path) -> None:
    rewrite(tiny_checkpoint(tmp_path), {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "drop", "message"),
    [
        ({}, ("model.norm.weight",), r"lacks 1 tensors: model\.norm\.weight"),
        (
            {"model.layers.2.mlp.up_proj.weight": torch.ones(1)},
            (),
            r"sdar has no place for 1 tensors: model\.layers\.2",
        ),
        (
            {"model.norm.weight": torch.ones(31)},
            (),
            r"model\.norm\.weight has shape \[31\], config\.json asks for \[32\]",
        ),
        (
            {"model.layers.0.self_attn.k_proj.weight": torch.ones(64, 32)},
            (),
            r"shape \[64, 32\].* asks for \[32, 32\]",
        ),
        (
            {"model.norm.weight": torch.ones(32, dtype=torch.int8)},
            (),
            r"model\.norm\.weight is stored as I8; supported",
        ),
    ],
)
def test_refuses_tensors(tmp_path: Path, change: dict[str, Tensor], drop: tuple[str, ...], message: str) -> None:
    rewrite(tiny_checkpoint(tmp_path), change, drop)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_no_weights(tmp_path: Path) -> None:
    (tiny_checkpoint(tmp_path) / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"holds neither model\.safetensors nor"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file at all"])
def test_corrupt_weights(tmp_path: Path, content: bytes) -> None:
    (tiny_checkpoint(tmp_path) / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_model(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    file = tiny_checkpoint(tmp_path) / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        load_model(tmp_path)


def test_index_names_a_missing_shard(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path, shard_bytes=30_000)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=f"named in {INDEX} are missing: {shard.name}"):
        load_model(tmp_path)


def test_index_places_a_tensor_in_the_wrong_shard(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "a.safetensors")
    names = load_file(tmp_path / "a.safetensors")
    save_file({"other": torch.ones(1)}, tmp_path / "b.safetensors")
    (tmp_path / INDEX).write_text("{}")
    edit_json(
        tmp_path / INDEX,
        weight_map=dict.fromkeys(names, "a.safetensors") | {"model.norm.weight": "b.safetensors"},
    )
    with pytest.raises(ModelError, match=rf"b\.safetensors does not hold model\.norm\.weight, which {INDEX}"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_index_without_a_map(tmp_path: Path, content: str) -> None:
    (tiny_checkpoint(tmp_path) / WEIGHTS).unlink()
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(ModelError, match="weight_map must map tensor names to file names"):
        load_model(tmp_path)
