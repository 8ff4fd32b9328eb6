"""Norms, rotary embedding and KV write in one Triton kernel: q, k, v are read once and written once.

A program takes some heads of one position. Norm and rotation are computed in fp32 and rounded once, at the end.
"""

import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels.overlap import follow, overlap

_HEADS_PER_PROGRAM = 16


def norm_rotate_store_triton(
    qkv: Tensor,
    norm: Tensor | None,
    eps: float,
    table: Tensor,
    positions: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
) -> Tensor:
    """See ``norm_rotate_store``."""
    n, all_heads, dim = qkv.shape
    kv_heads = k_pages.shape[2]
    heads = all_heads - 2 * kv_heads
    q = qkv.new_empty((n, heads, dim))
    _norm_rotate_store[(n, triton.cdiv(all_heads, _HEADS_PER_PROGRAM))](
        qkv,
        norm,
        table,
        positions,
        slots,
        q,
        k_pages,
        v_pages,
        eps,
        qkv.stride(0),
        HEADS=heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        DIM_PAD=triton.next_power_of_2(dim),
        TURN=table.shape[-1],
        BLOCK=_HEADS_PER_PROGRAM,
        num_warps=8,
        **overlap(qkv.device),
    )
    return q


@triton.jit(do_not_specialize_on_alignment=["positions", "slots"])
def _norm_rotate_store(
    qkv,
    norm,
    table,
    positions,
    slots,
    q,
    k_pages,
    v_pages,
    eps,
    stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
    TURN: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Some heads of one position; the last KV_HEADS are v's, which are only stored."""
    follow(OVERLAP)
    n = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, DIM_PAD)
    inside = (head < HEADS + 2 * KV_HEADS)[:, None] & (d < DIM)[None, :]
    is_qk = (head < HEADS + KV_HEADS)[:, None]
    # the dimension that each one is rotated with
    turns = d < TURN
    partner = tl.where(turns, (d + TURN // 2) % TURN, d)

    line = qkv + n * stride + head[:, None] * DIM
    raw = tl.load(line + d[None, :], mask=inside, other=0.0)
    x = raw.to(tl.float32)
    y = tl.load(line + partner[None, :], mask=inside & is_qk & turns[None, :], other=0.0).to(tl.float32)
    if norm is not None:
        scale = tl.rsqrt(tl.sum(x * x, 1) / DIM + eps)[:, None]
        weights = norm + head[:, None] * DIM
        x *= scale * tl.load(weights + d[None, :], mask=inside & is_qk, other=0.0).to(tl.float32)
        y *= scale * tl.load(weights + partner[None, :], mask=inside & is_qk, other=0.0).to(tl.float32)
    turn = table + tl.load(positions + n).to(tl.int64) * 2 * TURN
    cos = tl.load(turn + d, mask=turns, other=1.0).to(tl.float32)[None, :]
    sin = tl.load(turn + TURN + d, mask=turns, other=0.0).to(tl.float32)[None, :]
    x = (x * cos + y * sin).to(raw.dtype)

    tl.store(q + (n * HEADS + head[:, None]) * DIM + d[None, :], x, mask=inside & (head < HEADS)[:, None])
    slot = tl.load(slots + n).to(tl.int64)
    if slot >= 0:
        kv_head = head - HEADS
        target = (slot * KV_HEADS + kv_head[:, None]) * DIM + d[None, :]
        tl.store(k_pages + target, x, mask=inside & is_qk & (kv_head >= 0)[:, None])
        tl.store(v_pages + target - KV_HEADS * DIM, raw, mask=inside & (kv_head >= KV_HEADS)[:, None])
