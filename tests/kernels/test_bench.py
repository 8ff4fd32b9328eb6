"""The benchmark finds what is wrong; its timings need a GPU."""

import pytest
import torch

from optimus_kernels.bench.check import agrees, errors

pytest.importorskip("triton")
from optimus_kernels.bench import attention, products, small, steps


def test_errors_are_relative_to_the_references_size():
    expected = torch.tensor([10.0, -10.0])
    assert errors(expected + torch.tensor([0.0, 1.0]), expected) == pytest.approx((0.1 / 2**0.5, 0.1))
    assert agrees(expected.half(), expected)
    assert not agrees((expected * 1.01).half(), expected)


def test_nan_never_agrees():
    assert not agrees(torch.tensor([1.0, torch.nan]), torch.ones(2))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(attention, "_FOOTPRINT", 1)
    for name, value in {
        "HIDDEN": 64,
        "FFN": 48,
        "VOCAB": 200,
        "DIM": 16,
        "HEADS": 4,
        "KV_HEADS": 2,
        "N": 20,
        "ROWS": 8,
    }.items():
        monkeypatch.setattr(small, name, value)
    monkeypatch.setattr(products, "SHAPES", (("qkv", 64, 48), ("down", 128, 16)))
    monkeypatch.setattr(products, "GATED", (64, 48))
    for name, value in {"BLOCK": 8, "PAGE": 4, "CANVAS": 64, "CHUNK": 3, "_COUNT": 20, "_SETS": 2}.items():
        monkeypatch.setattr(steps, name, value)


LOAD = attention.Load("tiny", ((8, 40), (1, 33)), page_size=16)


def test_right_kernels_pass(tiny):
    assert attention.check(LOAD, attention.Tile(16, 16, 1, 1), 2, torch.float16) is None
    assert small.check(torch.float16) == []
    assert products.check(torch.float16) == []
    assert steps.check() == []


def test_wrong_kernels_are_named(tiny, monkeypatch):
    right = attention.paged_attention_triton
    monkeypatch.setattr(attention, "paged_attention_triton", lambda *args, **kwargs: 1.1 * right(*args, **kwargs))
    assert "tiny" in attention.check(LOAD, attention.Tile(64, 64, 4, 1), 1, torch.float16)
    monkeypatch.setattr(small, "silu_mul_triton", lambda x: 2 * small.silu_mul_reference(x))
    monkeypatch.setattr(small, "choose_triton", lambda *args, **kwargs: wrong_choice(*args, **kwargs))
    monkeypatch.setattr(products, "linear_triton", lambda x, weight: 1.1 * torch.nn.functional.linear(x, weight))
    assert {line.split()[1] for line in products.check(torch.float16)} == {"qkv", "down"}
    names = " ".join(small.check(torch.float16))
    assert "gate" in names
    assert "greedy tokens" in names
    assert "drawn tokens" in names


def test_a_step_that_goes_wrong_is_named(tiny, monkeypatch):
    right = steps.unmask_triton
    monkeypatch.setattr(steps, "unmask_triton", lambda *args, **options: ~right(*args, **options))
    assert {name.split(",")[0] for name in steps.check()} == {"unmask: chosen"}
    monkeypatch.setattr(steps, "lay_out_triton", lambda *args, **options: wrong_layout(*args, **options))
    assert "layout: places, seed 0" in steps.check()


def wrong_layout(slots, turns, places, plan, **options):
    made = steps.lay_out_reference(slots, turns, places, plan, **options)
    places[0] += 1
    return made


def test_a_call_that_is_repeated_does_the_same_again(tiny):
    for one in steps.contenders(12):
        first = one.call(*one.sets[0])
        told = first.clone() if isinstance(first, torch.Tensor) else first.starts.clone()
        slots = one.sets[0][0]
        before = slots.tokens.clone(), slots.lengths.clone()
        again = one.call(*one.sets[0])
        assert torch.equal(again if isinstance(again, torch.Tensor) else again.starts, told)
        assert torch.equal(slots.tokens, before[0])
        assert torch.equal(slots.lengths, before[1])


def test_rows_are_as_wide_as_is_said(tiny):
    slots, turns, places, plan = next(steps.contenders(12)).sets[1]
    made = steps.lay_out_triton(slots, turns, places, plan, masks=12, shift=0, mask_id=steps.MASK_ID)
    assert (made.stops - made.starts).tolist() == [3, 3, 3, 3]
    assert (made.positions >= 0).all()
    assert (places[0] == steps.MASK_ID).all()


def wrong_choice(*args, **kwargs):
    token, confidence, entropy = small.choose_reference(*args, **kwargs)
    return (token + 1) % small.VOCAB, confidence, entropy


def test_a_loads_work_is_counted_by_hand():
    load = attention.Load("", ((4, 4), (2, 34)))
    assert load.positions == 6
    assert load.kv_bytes == 38 * 2 * 8 * 128 * 2
    # queries 0 to 3 see 4 keys each, 32 and 33 see 34
    assert load.flops == 4 * (4 * 4 + 2 * 34) * 32 * 128


def test_every_load_tries_what_the_kernel_would_choose_first():
    for load in (*attention.DECODE, *attention.PREFILL):
        first, *others = attention.variants(load)
        assert first == (None, None)
        assert others
