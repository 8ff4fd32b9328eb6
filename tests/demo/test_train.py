"""Training end to end at smoke size, and the checkpoint it writes."""

import argparse
import json

import pytest
import torch

from optimus_server.demo import MODELS, command
from optimus_server.demo.attention import attend
from optimus_server.demo.export import config, export
from optimus_server.demo.loss import optimizer, schedule, weighted_loss
from optimus_server.demo.network import Network
from optimus_server.demo.plan import MINUTES, Plan, Shape, full, smoke
from optimus_server.demo.tokenizer import RESERVED, train_tokenizer


def demo(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(list(map(str, arguments))))


@pytest.fixture(scope="module")
def smoked(tmp_path_factory):
    out = tmp_path_factory.mktemp("smoke")
    assert demo("train", "--smoke", "--out", out) == 0
    return out


def test_smoke_training_writes_everything(smoked):
    for name in ("demo", "demo-sdar"):
        files = {path.name for path in (smoked / name).iterdir()}
        assert files == {
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert "| block |" in (smoked / name / "README.md").read_text()
    assert json.loads((smoked / "train.json").read_text())["demo"]["steps"] == 4
    assert json.loads((smoked / "demo" / "config.json").read_text())["logit_shift"] == 1


def test_resumed_training_is_finished_at_once(smoked, capsys):
    before = (smoked / "demo" / "model.safetensors").read_bytes()
    assert demo("train", "--smoke", "--resume", "--no-eval", "--out", smoked) == 0
    assert "demo: resumed at step 4" in capsys.readouterr().out
    assert (smoked / "demo" / "model.safetensors").read_bytes() == before


def test_export_loads_in_transformers_with_the_same_logits(tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = Shape(hidden=64, layers=2, heads=4, kv_heads=1, head_dim=32, ffn=96)
    torch.manual_seed(0)
    net = Network(shape)
    for weight in net.parameters():
        weight.data = (weight.data + 0.1 * torch.randn_like(weight)).bfloat16().float()  # bf16 is what is stored
    export(net, train_tokenizer(0, 3000), tmp_path, shift=1)
    fields = config(shape, 1) | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    peer = Qwen3ForCausalLM.from_pretrained(tmp_path, config=Qwen3Config(**fields), dtype=torch.float32)
    ids = torch.randint(0, 1024, (40,))
    causal = torch.ones(40, 40).tril().bool()
    with torch.no_grad():
        ours = net.lm_head(net(ids, torch.arange(40), causal))
        theirs = peer(ids[None]).logits[0]
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_dense():
    from optimus_server.demo.attention import TiledMasks
    from optimus_server.demo.objective import Noise, block_diffusion

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(13, 1024, (2, 128), generator=generator)
    work = block_diffusion(ids, torch.full_like(ids, 2), Noise(1), generator)
    mask = TiledMasks(512, torch.device("cpu")).mask(work.spans, 128, 2)
    q, k, v = (torch.randn(heads, 512, 16, generator=generator) for heads in (4, 1, 1))
    assert (attend(q, k, v, mask) - attend(q, k, v, work.spans.dense())).abs().max() < 1e-5


def test_loss_is_cross_entropy():
    torch.manual_seed(0)
    hidden, head, targets = torch.randn(9, 8), torch.randn(20, 8), torch.randint(0, 20, (5,))
    source, weights = torch.tensor([8, 0, 3, 3, 1]), torch.rand(5)
    logits = hidden[source] @ head.T
    wanted = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
    z = (logits.logsumexp(-1).square() * weights).sum() * 1e-4
    assert weighted_loss(hidden, head, source, targets, weights).item() == pytest.approx((wanted + z).item(), rel=1e-5)


def test_plans():
    assert sum(p.numel() for p in Network(Shape()).parameters()) == 7_870_720
    assert full(MINUTES / 2).autoregressive_steps == Plan().autoregressive_steps // 2
    assert [stage.shift for stage in Plan().stages("demo-sdar")] == [None, 1, 0]
    assert [stage.name for stage in smoke().stages("demo")] == ["ar", "demo"]
    assert schedule(0, 100, 10) == 0.1
    assert schedule(100, 100, 10) == pytest.approx(0.02)
    decayed, plain = optimizer(Network(smoke().shape), 1e-3).param_groups
    assert all(p.dim() == 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0


@pytest.mark.parametrize("name", ["demo", "demo-sdar"])
def test_shipped_weights(name):
    from optimus_server.models.loader import load_model

    directory = MODELS / name
    assert sum(file.stat().st_size for file in directory.iterdir()) < 18e6
    loaded = load_model(directory)
    assert (loaded.config.block_size, loaded.config.logit_shift) == (32, int(name == "demo"))
    head = loaded.net.head.detach()
    assert torch.isfinite(head).all()
    assert len(head) > max(RESERVED)
