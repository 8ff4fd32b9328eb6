"""All kernels but attention. Here: norms, rotary embedding with KV write, gate, and the choice of tokens."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from optimus_kernels.bench import products, steps
from optimus_kernels.bench.check import agrees
from optimus_kernels.bench.measure import DEVICE, Contender, seconds
from optimus_kernels.choose import Sampling
from optimus_kernels.choose.kernel import choose_triton
from optimus_kernels.choose.reference import choose_reference, kept
from optimus_kernels.gate.kernel import silu_mul_triton
from optimus_kernels.gate.reference import silu_mul_reference
from optimus_kernels.norm.kernel import rms_norm_triton
from optimus_kernels.norm.reference import rms_norm_reference
from optimus_kernels.rotary.kernel import norm_rotate_store_triton
from optimus_kernels.rotary.reference import norm_rotate_store_reference

HEADS, KV_HEADS, DIM, HIDDEN, FFN, VOCAB, PAGE = 32, 8, 128, 4096, 12288, 151936, 64
# of the checks, and of sampled rows in them
N, ROWS = 300, 64
_FOOTPRINT = 160 * 2**20


def contenders(n: int) -> Iterator[Contender]:
    """All ops on ``n`` positions of SDAR-8B's geometry, in bf16."""
    yield from _norm(n)
    yield from _rotary(n)
    yield from _gate(n)
    yield from _choose(n)
    yield from products.contenders(n)
    yield from steps.contenders(n)


def rows(n: int, bandwidth: float) -> list[dict[str, object]]:
    """Times of all contenders."""
    table: list[dict[str, object]] = []
    for one in contenders(n):
        time = seconds([partial(one.call, *tensors) for tensors in one.sets])
        table.append(
            {
                "op": one.op,
                "n": n,
                "name": one.name,
                "us": round(time * 1e6, 2),
                "of copy": round(one.bytes_ / time / bandwidth, 3),
            }
        )
    return table


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)


def _count(bytes_: int, most: int = 400) -> int:
    """How many sets of tensors exceed the L2 cache."""
    return max(2, min(most, -(-_FOOTPRINT // bytes_)))


def _norm(n: int) -> Iterator[Contender]:
    weight = _random(HIDDEN)
    bytes_ = 2 * n * HIDDEN * 2
    pairs = [(_random(n, HIDDEN), _random(n, HIDDEN)) for _ in range(_count(bytes_))]
    alone = [(x,) for x, _ in pairs]
    for name, norm in (("triton", rms_norm_triton), ("torch", rms_norm_reference)):
        yield Contender("norm", name, partial(norm, weight=weight, eps=1e-6), alone, bytes_)
        yield Contender("norm with residual", name, _with_residual(norm, weight), pairs, 2 * bytes_)


def _with_residual(norm: Callable[..., object], weight: Tensor) -> Callable[[Tensor, Tensor], object]:
    return lambda x, residual: norm(x, weight, 1e-6, residual)


def _rotary(n: int) -> Iterator[Contender]:
    width = HEADS + 2 * KV_HEADS
    bytes_ = 2 * n * width * DIM * 2
    sets = [(_random(n, width, DIM),) for _ in range(_count(bytes_))]
    pages = -(-n // PAGE)
    rest: dict[str, Any] = {
        "norm": _random(HEADS + KV_HEADS, DIM),
        "eps": 1e-6,
        "table": _random(4096, 2, DIM),
        "positions": torch.randint(0, 4096, (n,), device=DEVICE),
        "slots": torch.randperm(pages * PAGE, device=DEVICE)[:n].int(),
        "k_pages": _random(pages, PAGE, KV_HEADS, DIM),
        "v_pages": _random(pages, PAGE, KV_HEADS, DIM),
    }
    yield Contender("rotary", "triton", partial(norm_rotate_store_triton, **rest), sets, bytes_)


def _gate(n: int) -> Iterator[Contender]:
    bytes_ = 3 * n * FFN * 2
    sets = [(_random(n, 2 * FFN),) for _ in range(_count(bytes_))]
    yield Contender("gate", "triton", silu_mul_triton, sets, bytes_)
    yield Contender("gate", "torch", silu_mul_reference, sets, bytes_)


def sampling(m: int, top_k: int, top_p: float) -> Sampling:
    """All rows at temperature 0.8."""
    return Sampling(
        torch.full((m,), 0.8, device=DEVICE, dtype=torch.float64),
        torch.full((m,), top_k, device=DEVICE),
        torch.full((m,), top_p, device=DEVICE, dtype=torch.float64),
        torch.rand(m, device=DEVICE, dtype=torch.float64),
    )


def _choose(m: int) -> Iterator[Contender]:
    bytes_ = m * VOCAB * 2
    sets = [(3 * _random(m, VOCAB),) for _ in range(_count(bytes_, most=8))]
    yield Contender("choose, greedy", "triton", partial(choose_triton, mask_id=7), sets, bytes_)
    yield Contender("choose, greedy", "torch softmax", lambda x: F.softmax(x.float(), -1).max(-1), sets, bytes_)
    if m > 256:
        return
    for name, top_k, top_p in (("t", VOCAB, 1.0), ("top_k", 50, 1.0), ("top_p", VOCAB, 0.9), ("both", 50, 0.9)):
        plan = sampling(m, top_k, top_p)
        yield Contender(f"choose, {name}", "triton", partial(choose_triton, mask_id=7, sampling=plan), sets[:2], bytes_)
    yield Contender("choose, both", "torch: softmax and sort alone", _sorted, sets[:1], bytes_)


def _sorted(x: Tensor) -> object:
    return x.float().softmax(-1).sort(-1, descending=True)


def check(dtype: torch.dtype) -> list[str]:
    """What is wrong with these ops at this size, if anything; tests look closer."""
    wrong = []

    def expect(name: str, out: Tensor, expected: Tensor) -> None:
        if not agrees(out, expected):
            wrong.append(f"{name} {dtype}")

    n = N
    x, r, w = _random(n, HIDDEN).to(dtype), _random(n, HIDDEN).to(dtype), _random(HIDDEN).to(dtype)
    normed, total = rms_norm_triton(x, w, 1e-6, r)
    expect("norm", normed, rms_norm_reference(total.float(), w.float(), 1e-6)[0])
    expect("residual", total, x.float() + r.float())
    gate_up = _random(n, 2 * FFN).to(dtype)
    expect("gate", silu_mul_triton(gate_up), silu_mul_reference(gate_up.float()))

    qkv, norm = _random(n, HEADS + 2 * KV_HEADS, DIM).to(dtype), _random(HEADS + KV_HEADS, DIM).to(dtype)
    table = _random(500, 2, DIM).to(dtype)
    positions, slots = torch.randint(0, 500, (n,), device=DEVICE), torch.randperm(640, device=DEVICE)[:n].int()
    results = []
    for op, cast in ((norm_rotate_store_triton, dtype), (norm_rotate_store_reference, torch.float32)):
        k, v = (torch.zeros(10, PAGE, KV_HEADS, DIM, device=DEVICE, dtype=cast) for _ in "kv")
        q = op(qkv.to(cast), norm.to(cast), 1e-6, table.to(cast), positions, slots, k, v)
        # What was not written is 0, and would make errors look large beside it.
        results.append((q, *(pages.flatten(0, 1)[slots] for pages in (k, v))))
    for name, out, expected in zip(("q", "k", "v"), *results, strict=True):
        expect(f"rotary {name}", out, expected)

    logits = (3 * _random(ROWS, VOCAB)).to(dtype)
    draws = sampling(ROWS, VOCAB, 1.0)
    draws.temperature[::4] = 0
    draws.top_k[1::4] = 50
    draws.top_p[2::4] = 0.9
    token, confidence, entropy = choose_triton(logits, 7, draws, entropy=True)
    exact = logits.double()
    expected_token, _, expected_entropy = choose_reference(exact, 7, draws, entropy=True)
    exact[:, 7] = -torch.inf
    probs = (exact / torch.where(draws.temperature > 0, draws.temperature, 1)[:, None]).softmax(-1)
    expect("choose: confidence", confidence, probs.gather(1, token[:, None])[:, 0])
    assert entropy is not None
    assert expected_entropy is not None
    expect("choose: entropy", entropy, expected_entropy)
    if not token[::4].equal(expected_token[::4]):
        wrong.append(f"choose: greedy tokens {dtype}")
    # With so many tokens, rounding may draw a neighbour; where it lies in the distribution is what counts.
    cumulative = kept(probs, draws.top_k, draws.top_p).cumsum(-1)
    cumulative /= cumulative[:, -1:]
    after = cumulative.gather(1, token[:, None])[:, 0]
    before = torch.where(token > 0, cumulative.gather(1, (token - 1).clamp(min=0)[:, None])[:, 0], 0)
    fits = (before - 1e-4 <= draws.uniform) & (draws.uniform <= after + 1e-4)
    if not fits[draws.temperature > 0].all():
        wrong.append(f"choose: drawn tokens {dtype}")
    return wrong
