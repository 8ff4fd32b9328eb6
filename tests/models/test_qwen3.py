"""Our decoder against transformers' Qwen3 with the same weights, however the positions are cut into steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from optimus_kernels.paged_attention import plan_attention
from optimus_server.models.cache import KVCache, page_bytes
from optimus_server.models.loader import LoadedModel, load_model
from tests.naive import naive_logits
from tests.tiny import MASK_ID, reference_model, tiny_checkpoint

PAGE_SIZE = 4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}


class Paged:
    """Runs steps of rows through a model's cache, whose unwritten slots hold NaN."""

    def __init__(self, model: LoadedModel, requests: int = 1) -> None:
        self.model = model
        dtype = model.net.norm.dtype
        self.kv = KVCache.allocate(model.config, pages=16 * requests, page_size=PAGE_SIZE, device="cpu", dtype=dtype)
        self.kv.k.fill_(torch.nan)
        self.kv.v.fill_(torch.nan)
        order = torch.randperm(16 * requests, generator=torch.Generator().manual_seed(1))
        self.tables = order.view(requests, 16).tolist()

    def step(self, *rows: tuple[int, list[int], int, int]) -> list[Tensor]:
        """Rows (request, ids, start, stop) -> each row's logits [stop - start, vocab]."""
        starts, stops = [row[2] for row in rows], [row[3] for row in rows]
        plan = plan_attention(
            starts,
            stops,
            stops,
            [self.tables[row[0]] for row in rows],
            block_size=self.model.config.block_size,
            page_size=PAGE_SIZE,
            device="cpu",
        )
        ids = torch.tensor([token for _, ids, start, stop in rows for token in ids[start:stop]])
        positions = torch.cat([torch.arange(start, stop) for start, stop in zip(starts, stops, strict=True)])
        hidden = self.model.net(ids, positions, self.kv, plan)
        sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
        return list(self.model.net.logits(hidden).split(sizes))


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(MASK_ID, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[ours.dtype])


CHUNKS = {"whole": [45], "chunks": [7, 1, 20, 17], "token by token": [1] * 45}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
def test_causal(tmp_path: Path, dtype: torch.dtype, chunks: list[int]) -> None:
    path = tiny_checkpoint(tmp_path, "qwen3")
    paged, ids = Paged(load_model(path, dtype=dtype)), random_ids(45)
    ours, start = [], 0
    for size in chunks:
        ours += paged.step((0, ids, start, start + size))
        start += size
    model = reference_model(path, dtype)
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([ids])).logits[0]
    assert_equal(torch.cat(ours), theirs)


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_bias": True},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 777.0}, "rms_norm_eps": 1e-2},
    ],
    ids=str,
)
def test_variants_of_the_architecture(tmp_path: Path, overrides: dict[str, Any]) -> None:
    path = tiny_checkpoint(tmp_path, **overrides)
    ids = random_ids(20)
    [ours] = Paged(load_model(path, dtype=torch.float64)).step((0, ids, 0, 20))
    assert_equal(ours, naive_logits(reference_model(path), ids, block_size=8))


@pytest.mark.parametrize("block_size", [1, 3, 8, 64])
def test_staircase(tmp_path: Path, block_size: int) -> None:
    path = tiny_checkpoint(tmp_path, "sdar_shift", block_size=block_size)
    ids = random_ids(40)
    [ours] = Paged(load_model(path, dtype=torch.float64)).step((0, ids, 0, 40))
    assert_equal(ours, naive_logits(reference_model(path), ids, block_size))


def test_blocks_on_a_cache_of_clean_blocks_equal_the_whole_sequence(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path, "sdar", block_size=8)
    ids = random_ids(16) + [MASK_ID] * 8
    paged = Paged(load_model(path, dtype=torch.float64))
    theirs = naive_logits(reference_model(path), ids, block_size=8)
    paged.step((0, ids, 0, 16))
    noisy = [*ids[:16], *random_ids(8, seed=2)]
    paged.step((0, noisy, 16, 24))
    # what the block was before leaves no trace in its slots
    [ours] = paged.step((0, ids, 16, 24))
    assert_equal(ours, theirs[16:])


def test_ragged_rows_equal_each_alone(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path, "sdar", block_size=8)
    model, reference = load_model(path, dtype=torch.float64), reference_model(path)
    paged = Paged(model, requests=4)
    prompts = [random_ids(count, seed=count) for count in (40, 3, 17, 24)]
    paged.step((0, prompts[0], 0, 16), (3, prompts[3], 0, 8))
    rows = [(3, prompts[3], 8, 24), (1, prompts[1], 0, 3), (0, prompts[0], 16, 40), (2, prompts[2], 0, 17)]
    for (_, ids, start, stop), ours in zip(rows, paged.step(*rows), strict=True):
        assert_equal(ours, naive_logits(reference, ids[:stop], block_size=8)[start:])


def test_bfloat16_follows_float32(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path)
    ids = random_ids(40)
    exact, rounded = (
        Paged(load_model(path, dtype=dtype)).step((0, ids, 0, 40))[0].float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (exact - rounded).square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


def test_positions_reach_the_end_of_the_last_block(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path, block_size=8, max_position_embeddings=21)
    ids = random_ids(24)
    [ours] = Paged(load_model(path, dtype=torch.float64)).step((0, ids, 0, 24))
    assert_equal(ours, naive_logits(reference_model(path), ids, block_size=8))


def test_page_bytes(tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path))
    kv = KVCache.allocate(model.config, pages=3, page_size=PAGE_SIZE, device="cpu", dtype=torch.bfloat16)
    assert (kv.pages, kv.page_size) == (3, PAGE_SIZE)
    assert kv.k.nbytes + kv.v.nbytes == 3 * page_bytes(model.config, page_size=PAGE_SIZE, dtype=torch.bfloat16)
