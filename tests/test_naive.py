"""The truth, checked where it can be: against transformers' generate, and rule by rule on what must hold."""

from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from tests.naive import _select, naive_ar, naive_block
from tests.tiny import EOS_IDS, MASK_ID, reference_model, tiny_checkpoint


def test_autoregression_equals_generate(tmp_path: Path) -> None:
    model = reference_model(tiny_checkpoint(tmp_path, "qwen3"))
    for seed in range(5):
        prompt = torch.randint(MASK_ID, (3 + seed,), generator=torch.Generator().manual_seed(seed)).tolist()
        config = GenerationConfig(max_new_tokens=20, do_sample=False, eos_token_id=list(EOS_IDS), pad_token_id=0)
        ids = torch.tensor([prompt])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0]
        ours = naive_ar(model, prompt, max_new_tokens=20, eos_ids=EOS_IDS)
        assert prompt + ours == expected.tolist()
        blocks_of_one, steps = naive_block(
            model, prompt, block_size=1, mask_id=MASK_ID, shift=1, max_new_tokens=20, eos_ids=EOS_IDS
        )
        if MASK_ID not in ours:
            assert (blocks_of_one, steps) == (ours, len(ours))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("prompt_length", [1, 7, 8, 9])
def test_length_and_steps(tmp_path: Path, shift: int, prompt_length: int) -> None:
    model = reference_model(tiny_checkpoint(tmp_path, "sdar_shift" if shift else "sdar"))
    prompt = list(range(prompt_length))
    answer, steps = naive_block(model, prompt, block_size=8, mask_id=MASK_ID, shift=shift, max_new_tokens=11)
    assert len(answer) == 11
    assert MASK_ID not in answer
    assert steps <= 24
    one_by_one, steps = naive_block(
        model, prompt, block_size=8, mask_id=MASK_ID, shift=shift, max_new_tokens=11, rule="sequential"
    )
    assert (len(one_by_one), steps) == (11, 11)
    stop = one_by_one[4]
    until, _ = naive_block(
        model,
        prompt,
        block_size=8,
        mask_id=MASK_ID,
        shift=shift,
        max_new_tokens=11,
        rule="sequential",
        eos_ids={stop},
    )
    assert until == one_by_one[: one_by_one.index(stop) + 1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("low_confidence_dynamic", [3, 1]),
        ("low_confidence_static", [3]),
        ("sequential", [0]),
        ("entropy_bounded", [3, 1, 0]),
    ],
)
def test_rules(rule: str, expected: list[int]) -> None:
    confidence, entropy = [0.9, 0.92, 0.5, 0.99], [0.2, 0.1, 0.9, 0.05]
    assert _select(confidence, entropy, rule, threshold=0.9, transfer=1, bound=0.36) == expected


def test_ties_go_left_and_something_always_commits() -> None:
    assert _select([0.5, 0.7, 0.7], [1, 1, 1], "low_confidence_dynamic", 0.9, 1, 0) == [1]
    assert _select([0.5, 0.7, 0.7], [1, 1, 1], "entropy_bounded", 0.9, 1, 0.1) == [0]
    assert _select([0.5, 0.7], [1, 1], "low_confidence_static", 0.9, 5, 0) == [1, 0]
