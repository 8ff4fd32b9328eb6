"""Widened checkpoints through the loader, against the small model they were made from."""

import argparse
import json
import math
from dataclasses import replace

import pytest
import torch

from optimus_kernels.paged_attention import plan_attention
from optimus_server.demo import MODELS, command
from optimus_server.demo.evaluate import Cell, evaluate_cell
from optimus_server.demo.plan import LIKE, Shape
from optimus_server.demo.tasks import held_out
from optimus_server.demo.tokenizer import MASK, RESERVED
from optimus_server.demo.widen import _shapes, shape_of, widen
from optimus_server.errors import ModelError
from optimus_server.models.cache import KVCache
from optimus_server.models.config import load_config
from optimus_server.models.loader import load_model
from optimus_server.models.qwen3 import Qwen3
from optimus_server.text.tokenizer import Tokenizer
from tests.tiny import EOS_IDS, tiny_checkpoint

TOKENIZER_FILES = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")


def tiny(path, flavour="sdar_shift", **overrides):
    """A random checkpoint with 4 query heads on 2 KV heads, hidden 32, ffn 48, 2 layers, vocabulary 73."""
    tiny_checkpoint(path, flavour, **overrides)
    for name in TOKENIZER_FILES:
        (path / name).write_text(json.dumps({"eos_token_id": list(EOS_IDS)}))
    return path


def logits(path, ids):
    """All logits of one row of known tokens, computed by the loader's network."""
    model = load_model(path)
    count, size = len(ids), 16
    kv = KVCache.allocate(model.config, pages=8, page_size=size, device="cpu", dtype=torch.float32)
    plan = plan_attention(
        [0], [count], [count], [list(range(8))], block_size=model.config.block_size, page_size=size, device="cpu"
    )
    return model.net.logits(model.net(torch.tensor(ids), torch.arange(count), kv, plan))


IDS = [7, 3, 72, 19, 60, 0, 33, 34, 35, 41, 72, 72, 5, 2, 11, 68, 9]  # 72 is the mask


@pytest.mark.parametrize("flavour", ["sdar", "sdar_shift"])
@pytest.mark.parametrize(
    ("heads", "kv_heads"),
    [(4, 2), (8, 4), (6, 6), (8, 2), (16, 2)],
    ids=["same heads", "twice the heads", "KV heads repeated", "more queries a KV head", "many more"],
)
def test_logits_are_those_of_the_small_model(tmp_path, flavour, heads, kv_heads):
    source = tiny(tmp_path / "small", flavour)
    target = replace(
        shape_of(load_config(source)), hidden=128, layers=4, heads=heads, kv_heads=kv_heads, ffn=80, vocabulary=120
    )
    out = widen(source, tmp_path / "wide", target, mask_token_id=110, dtype=torch.float32)
    small, wide = logits(source, IDS), logits(out, [110 if i == 72 else i for i in IDS])
    assert (wide[:, :73] - small).abs().max() < 1e-4
    assert torch.equal(wide[:, 73:], wide[:, 73:74].expand(-1, 47))
    assert (wide[:, 73] - 2 * small[:, RESERVED[0]]).abs().max() < 1e-4


def test_a_hidden_size_that_is_no_power_of_four_apart(tmp_path):
    source = tiny(tmp_path / "small")
    target = replace(shape_of(load_config(source)), hidden=80)
    out = widen(source, tmp_path / "wide", target, dtype=torch.float32)
    assert (logits(out, IDS) - logits(source, IDS)).abs().max() < 1e-4


def test_the_random_weights_are_seeded_and_do_nothing(tmp_path):
    source = tiny(tmp_path / "small")
    target = replace(shape_of(load_config(source)), hidden=128, layers=3, ffn=64, heads=8, kv_heads=4)
    one, same, other = (
        widen(source, tmp_path / name, target, seed=seed, dtype=torch.float32)
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    (file,) = [path.name for path in one.glob("*.safetensors")]
    assert (one / file).read_bytes() == (same / file).read_bytes() != (other / file).read_bytes()
    assert (logits(one, IDS) - logits(other, IDS)).abs().max() < 1e-4


def test_shards_are_small_and_complete(tmp_path):
    source = tiny(tmp_path / "small")
    target = replace(shape_of(load_config(source)), hidden=64)
    out = widen(source, tmp_path / "wide", target, dtype=torch.float32, shard_bytes=40_000)
    files = sorted(path.name for path in out.glob("*.safetensors"))
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    assert len(files) > 3
    assert all((out / file).stat().st_size < 42_000 for file in files)
    assert index["metadata"]["total_size"] == 4 * sum(math.prod(shape) for _, shape in _shapes(target))
    assert (logits(out, IDS) - logits(source, IDS)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"hidden": 16}, "hidden must be >= 32, the source's. Given: 16"),
        ({"layers": 1}, "layers must be >= 2"),
        ({"ffn": 47}, "ffn must be >= 48"),
        ({"vocabulary": 72}, "vocabulary must be >= 73"),
        ({"head_dim": 32}, "head_dim must be 16, the source's. Given: 32"),
        ({"heads": 6, "kv_heads": 4}, "heads must be a multiple of kv_heads. Given: 6 and 4"),
        (
            {"heads": 3, "kv_heads": 3},
            "kv_heads must be >= 4: the source has 2 x 2 query heads, the target 1 ",
        ),
        ({"heads": 8, "kv_heads": 1}, "kv_heads must be >= 2"),
    ],
)
def test_a_geometry_that_the_source_does_not_fit(tmp_path, changes, problem):
    source = tiny(tmp_path / "small")
    with pytest.raises(ModelError) as error:
        widen(source, tmp_path / "wide", replace(shape_of(load_config(source)), **changes))
    assert problem in error.value.message
    assert not (tmp_path / "wide").exists()


def test_what_else_cannot_be_widened(tmp_path, monkeypatch):
    shifted, plain = tiny(tmp_path / "shifted"), tiny(tmp_path / "plain", "sdar")
    shape = shape_of(load_config(plain))
    with pytest.raises(ModelError, match=r"mask_token_id must be < 73, the vocabulary\. Given: 73"):
        widen(shifted, tmp_path / "wide", shape, mask_token_id=73)
    with pytest.raises(ModelError, match="needs shifted logits"):
        widen(plain, tmp_path / "wide", shape, autoregressive=True)
    with pytest.raises(ModelError, match="exists"):
        widen(shifted, tmp_path / "plain", shape)
    with pytest.raises(ModelError, match="a head of their own"):
        widen(tiny(tmp_path / "tied", tie_word_embeddings=True), tmp_path / "wide", shape)
    monkeypatch.setattr("shutil.disk_usage", lambda path: argparse.Namespace(free=10_000))
    with pytest.raises(ModelError, match=r"needs 0\.0 GB, the disk has"):
        widen(shifted, tmp_path / "wide", shape)


WIDE = Shape(vocabulary=1536, hidden=1024, layers=9, heads=8, kv_heads=4, ffn=1024)  # KV heads are repeated


@pytest.fixture(scope="module", params=["demo", "demo-sdar"])
def pair(request, tmp_path_factory):
    """A demo model and the same in bf16, four times as wide."""
    source = MODELS / request.param
    return source, widen(source, tmp_path_factory.mktemp("wide") / "model", WIDE, mask_token_id=1500)


@pytest.mark.parametrize("cell", [Cell("block", 32), Cell("chunk", 8), Cell("refresh", 16)], ids=str)
def test_answers_are_the_small_models_token_for_token(pair, cell):
    questions = held_out(4, seed=2, only=["json", "sort", "words"])
    small, wide = (evaluate_cell(load_model(path), Tokenizer.load(path), cell, questions, max_new=96) for path in pair)
    assert wide.outcomes == small.outcomes
    assert wide.wrong == small.wrong
    assert wide.scored.right >= 3


def test_an_autoregressive_twin_decodes_as_a_qwen3_model(tmp_path):
    """Transformers' own generate on the wide Qwen3 checkpoint, against our engine on it and on a narrow one."""
    from transformers import Qwen3ForCausalLM

    source = MODELS / "demo"
    wide = widen(source, tmp_path / "wide", WIDE, autoregressive=True)
    narrow = widen(source, tmp_path / "narrow", shape_of(load_config(source)), autoregressive=True)
    question = held_out(1, seed=3, only=["json"])
    texts = []
    for path in (wide, narrow):
        model = load_model(path)
        assert (model.config.model_type, model.config.block_size) == ("qwen3", 1)
        question_ = replace(question[0], answer="never right")
        texts.append(evaluate_cell(model, Tokenizer.load(path), Cell("chunk", 1), [question_], 64).wrong[0][2])
    peer = Qwen3ForCausalLM.from_pretrained(wide, dtype=torch.float32)
    tokenizer = Tokenizer.load(wide)
    prompt, _ = tokenizer.encode_chat(question[0].inputs)
    ids = torch.tensor([prompt])
    answer = peer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False)
    texts.append(tokenizer.decode(answer[0, len(prompt) :].tolist()))
    assert texts == [question[0].answer] * 3


@pytest.mark.parametrize("name", ["demo", "demo-sdar"])
def test_the_row_that_fills_the_head_is_never_likely(name, monkeypatch):
    """Its logits are far below zero, so that doubling sinks it, and 150,912 copies of it doubled weigh nothing."""
    seen = []
    compute = Qwen3.logits

    def watch(self, hidden):
        out = compute(self, hidden)
        seen.append(torch.stack((out[:, RESERVED[0]], out.logsumexp(-1), out[:, MASK]), 1))
        return out

    monkeypatch.setattr(Qwen3, "logits", watch)
    model = load_model(MODELS / name)
    evaluate_cell(model, Tokenizer.load(MODELS / name), Cell("chunk", 16), held_out(26), max_new=400)
    row, total, mask = torch.cat(seen).unbind(1)
    assert row.max() < -9
    assert (150_912 * torch.exp(2 * row - total)).max() < 1e-6
    assert (150_912 * torch.exp(row - total)).max() > 1e-4
    # the small mask id is an ordinary token of the wide model
    assert torch.exp(mask - total).max() < 1e-6


@pytest.mark.parametrize(("like", "gigabytes"), [("sdar-1.7b", 4.06), ("sdar-4b", 8.83), ("sdar-8b", 16.38)])
def test_named_geometries_weigh_what_the_published_weights_do(like, gigabytes):
    total = 2 * sum(math.prod(shape) for _, shape in _shapes(LIKE[like]))
    assert total / 1e9 == pytest.approx(gigabytes, abs=0.01)


def test_the_command(tmp_path, capsys):
    def run(*flags):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        return command.run(parser.parse_args(["widen", "--device", "cpu", *flags]))

    out = tmp_path / "wide"
    assert run("--out", str(out), "--hidden", "512", "--layers", "9", "--context", "4096") == 0
    config = load_config(out)
    assert (config.hidden_size, config.layers, config.heads, config.max_position_embeddings) == (512, 9, 4, 4096)
    assert (config.mask_token_id, config.eos_token_ids, config.logit_shift) == (1, {4}, 1)
    assert "model-00001-of-00001.safetensors" in capsys.readouterr().out
    assert run("--out", str(out)) == 2
    assert "exists" in capsys.readouterr().err
    assert run("--out", str(tmp_path / "b"), "--like", "sdar-8b", "--vocabulary", "2000") == 2
    assert "mask_token_id must be < 2000" in capsys.readouterr().err
