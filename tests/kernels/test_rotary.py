import pytest
import torch

from optimus_kernels.bench.check import agrees
from optimus_kernels.rotary.reference import norm_rotate_store_reference
from tests.kernels.conftest import DEVICE, DTYPES

pytest.importorskip("triton")
from optimus_kernels.rotary.kernel import norm_rotate_store_triton

SHAPES = {
    "odd GQA, full": (7, 1, 80, 80),
    "partial": (4, 2, 32, 16),
    "more heads than a program takes": (14, 3, 16, 16),
    "partial, not a power of two": (2, 2, 96, 24),
}


def tensors(heads, kv_heads, dim, turn, dtype, n=11, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    qkv = random(n, heads + 2 * kv_heads, dim)
    norm, table = random(heads + kv_heads, dim), random(50, 2, turn)
    positions = torch.randint(0, 50, (n,), generator=generator).to(DEVICE)
    slots = torch.randperm(32, generator=generator)[:n].int().to(DEVICE)
    return qkv, norm, table, positions, slots


def run(op, qkv, norm, table, positions, slots, kv_heads, dtype):
    """q, and both caches, in which what is not written is NaN."""
    dim = qkv.shape[-1]
    k, v = (torch.full((4, 8, kv_heads, dim), torch.nan, dtype=dtype, device=DEVICE) for _ in "kv")
    norm = None if norm is None else norm.to(dtype)
    q = op(qkv.to(dtype), norm, 1e-6, table.to(dtype), positions, slots, k, v)
    return q, k, v


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("normed", [True, False])
def test_kernel_equals_the_reference(shape, normed, dtype):
    heads, kv_heads, dim, turn = shape
    qkv, norm, *rest = tensors(heads, kv_heads, dim, turn, dtype)
    norm = norm if normed else None
    out = run(norm_rotate_store_triton, qkv, norm, *rest, kv_heads, dtype)
    expected = run(norm_rotate_store_reference, qkv, norm, *rest, kv_heads, torch.float64)
    written = torch.zeros(32, dtype=torch.bool, device=DEVICE)
    written[rest[-1].long()] = True
    assert agrees(out[0], expected[0])
    for cache, wanted in zip(out[1:], expected[1:], strict=True):
        assert agrees(cache.flatten(0, 1)[written], wanted.flatten(0, 1)[written])
        assert cache.flatten(0, 1)[~written].isnan().all()


@pytest.mark.parametrize("op", [norm_rotate_store_triton, norm_rotate_store_reference])
def test_a_position_without_a_slot_is_not_stored(op):
    qkv, norm, table, positions, slots = tensors(4, 2, 16, 16, torch.float32)
    slots[3] = -1
    q, k, v = run(op, qkv, norm, table, positions, slots, 2, torch.float32)
    assert not q.isnan().any()
    for cache in (k, v):
        stored = (~cache.flatten(0, 1).isnan()).all(-1).all(-1).nonzero()[:, 0]
        assert stored.tolist() == sorted(slots[slots >= 0].tolist())


def test_the_reference_is_the_formula():
    """Rotation of pairs (x, y) half of the turning dimensions apart, by an angle a position."""
    heads, kv_heads, dim, turn = 3, 1, 8, 6
    qkv, norm, _, positions, slots = tensors(heads, kv_heads, dim, turn, torch.float64)
    angles = torch.rand(50, turn // 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    cos, sin = angles.cos(), angles.sin()
    table = torch.stack((torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)), 1)
    q, k, v = run(norm_rotate_store_reference, qkv, norm, table, positions, slots, kv_heads, torch.float64)
    x = qkv[:, : heads + kv_heads]
    x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm
    first, second, rest = x.split([turn // 2, turn // 2, dim - turn], -1)
    cos, sin = cos[positions][:, None], sin[positions][:, None]
    x = torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)
    torch.testing.assert_close(q, x[:, :heads], rtol=0, atol=1e-12)
    torch.testing.assert_close(k.flatten(0, 1)[slots.long()], x[:, heads:], rtol=0, atol=1e-12)
    assert v.flatten(0, 1)[slots.long()].equal(qkv[:, -kv_heads:])
