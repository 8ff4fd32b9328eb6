"""Choosing tokens in Triton: the logits are read once in their own type, and nothing of the vocabulary's size is made.

Greedy rows take one pass: a program reduces one part of one row's vocabulary to its peak, its share and its best
token, and a second kernel merges the parts (the online softmax of Milakov and Gimelshein, 2018, split over parts).

Sampled rows are not sorted. Logits of 16 bits have at most 65,536 values, in an order that their bits know, so the
value where top-k or top-p cuts is found exactly by bisection, one pass of counting or adding a step. Tokens of that
very value are kept in the order of the vocabulary, as a stable sort would.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from optimus_kernels.choose.plan import Sampling

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


def choose_triton(
    logits: Tensor,
    mask_id: int | None,
    sampling: Sampling | None = None,
    *,
    entropy: bool = False,
    block: int = 4096,
    warps: int = 4,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """See ``choose``."""
    m, vocab = logits.shape
    block = min(block, max(128, triton.next_power_of_2(vocab)))
    parts = triton.cdiv(vocab, block)
    # [m, parts]: peak, share, and energy where entropies are wanted; then each part's best token
    sums = logits.new_empty((3 if entropy else 2, m, parts), dtype=torch.float32)
    best = logits.new_empty((m, parts), dtype=torch.int32)
    token = logits.new_empty(m, dtype=torch.int64)
    confidence = logits.new_empty(m, dtype=torch.float32)
    entropies = torch.empty_like(confidence) if entropy else None
    temperature = None if sampling is None else sampling.temperature
    mask = -1 if mask_id is None else mask_id
    _scan[(m, parts)](
        logits, sums, best, temperature, m, vocab, mask, logits.stride(0), ENTROPY=entropy, BLOCK=block, num_warps=warps
    )
    _merge[(m,)](
        sums,
        best,
        temperature,
        token,
        confidence,
        entropies,
        m,
        parts,
        PARTS=triton.next_power_of_2(parts),
        num_warps=1,
    )
    if sampling is not None:
        _draw[(m,)](
            logits,
            sums,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.uniform,
            token,
            confidence,
            m,
            vocab,
            mask,
            logits.stride(0),
            parts,
            PARTS=triton.next_power_of_2(parts),
            BITS=8 * logits.element_size(),
            PART=block,
            # one program has a whole row to go through, many times: the widest steps are the fastest
            BLOCK=4 * block,
            num_warps=8 * warps,
        )
    return token, confidence, entropies


# Numbers and addresses that change from step to step must not select another compilation.
@triton.jit(do_not_specialize=["m"], do_not_specialize_on_alignment=["temperature"])
def _scan(logits, sums, best, temperature, m, vocab, mask, stride, ENTROPY: tl.constexpr, BLOCK: tl.constexpr):
    """One part of one row: its peak, the sum of exp(logit - peak) and the first token at the peak."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = part * BLOCK + tl.arange(0, BLOCK)
    x = _logits(logits + row * stride, token, vocab, mask)
    peak = tl.max(x, 0)
    # a part of nothing but -inf has no share
    below = x - tl.where(peak == float("-inf"), 0.0, peak)
    rate = _rate(temperature, row)
    share = tl.exp2(below * rate)
    place = row * tl.num_programs(1) + part
    size = m.to(tl.int64) * tl.num_programs(1)
    tl.store(sums + place, peak)
    tl.store(sums + size + place, tl.sum(share, 0))
    if ENTROPY:
        tl.store(sums + 2 * size + place, tl.sum(tl.where(share > 0, share * below * rate, 0.0), 0))
    first = tl.min(tl.where(x == peak, token, vocab - 1), 0)
    tl.store(best + place, first)


@triton.jit(do_not_specialize=["m"], do_not_specialize_on_alignment=["temperature"])
def _merge(sums, best, temperature, token, confidence, entropies, m, parts, PARTS: tl.constexpr):
    """Weigh the parts of one row."""
    row = tl.program_id(0).to(tl.int64)
    rate = _rate(temperature, row)
    peak, total, _, lift, peaks = _row(sums, row, m, parts, rate, PARTS)
    part = tl.arange(0, PARTS)
    candidates = tl.load(best + row * parts + part, mask=part < parts, other=2147483647)
    # in a row that is not a number no part has the peak
    winner = tl.min(tl.where((peaks == peak) & (part < parts), candidates, 2147483647), 0)
    tl.store(token + row, tl.where(winner == 2147483647, 0, winner).to(tl.int64))
    tl.store(confidence + row, 1.0 / total)
    if entropies is not None:
        size = m.to(tl.int64) * parts
        inside = part < parts
        share = tl.load(sums + size + row * parts + part, mask=inside, other=0.0)
        energy = tl.load(sums + 2 * size + row * parts + part, mask=inside, other=0.0)
        # what was measured from a part's peak, measured from the row's
        energy = tl.sum(tl.where(share > 0, (energy + share * lift) * tl.exp2(lift), 0.0), 0)
        tl.store(entropies + row, (tl.log2(total) - energy / total) * _LN_2)


@triton.jit(do_not_specialize=["m"], do_not_specialize_on_alignment=["temperature", "top_k", "top_p", "uniform"])
def _draw(
    logits,
    sums,
    temperature,
    top_k,
    top_p,
    uniform,
    token,
    confidence,
    m,
    vocab,
    mask,
    stride,
    parts,
    PARTS: tl.constexpr,
    BITS: tl.constexpr,
    PART: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Replace a sampled row's best token by a drawn one."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(temperature + row) <= 0:
        return
    rate = _rate(temperature, row)
    peak, total, shares, _, _ = _row(sums, row, m, parts, rate, PARTS)
    line = logits + row * stride
    dtype = logits.dtype.element_ty
    lowest = _key(tl.full([], float("-inf"), tl.float32), dtype, BITS)
    highest = _key(peak, dtype, BITS)

    # Kept are the tokens above the bar and the first ``ties`` of those on it; ``above`` is the share of the former.
    bar, ties, above, kept = lowest - 1, 0, total, total
    k = tl.load(top_k + row).to(tl.int32)
    if k < vocab:
        bar, count = _bisect(line, vocab, mask, peak, rate, lowest, highest + 1, k, True, BITS, BLOCK)
        ties = k - count
        above = _sum_from(line, vocab, mask, peak, rate, _value(bar + 1, dtype, BITS), False, BLOCK)
        kept = above + ties * tl.exp2((_value(bar, dtype, BITS) - peak) * rate)
    p = tl.load(top_p + row).to(tl.float32)
    if p < 1:
        start = tl.maximum(bar, lowest)
        goal = p * kept
        cut, above = _bisect(line, vocab, mask, peak, rate, start, highest + 1, goal, False, BITS, BLOCK)
        each = tl.exp2((_value(cut, dtype, BITS) - peak) * rate)
        wanted = tl.maximum(tl.ceil((goal - above) / each), 1.0)
        limit = tl.where(cut == bar, ties, vocab)
        ties = tl.minimum(wanted, limit.to(tl.float32)).to(tl.int32)
        bar = cut
        kept = above + ties * each

    target = tl.load(uniform + row).to(tl.float32) * kept
    value = _value(bar, dtype, BITS)
    each = tl.exp2((value - peak) * rate)
    passed, found = tl.zeros([], tl.float32), tl.full([], 2147483647, tl.int32)
    seen, begin = 0, 0
    if bar < lowest:
        # nothing is left out: the parts' shares lead to the part
        ends = tl.cumsum(shares, 0)
        before = (tl.arange(0, PARTS) < parts) & (ends <= target)
        begin = tl.minimum(tl.sum(before.to(tl.int32), 0), parts - 1) * PART
        passed = tl.max(tl.where(before, ends, 0.0), 0)
    while (begin < vocab) & (found == 2147483647):
        place = begin + tl.arange(0, BLOCK)
        x = _logits(line, place, vocab, mask)
        share = tl.exp2((x - peak) * rate)
        over, on = x > value, x == value
        here = tl.sum(on.to(tl.int32), 0)
        mass = tl.sum(tl.where(over, share, 0.0), 0) + tl.maximum(tl.minimum(ties - seen, here), 0) * each
        if passed + mass > target:
            tie = seen + tl.cumsum(on.to(tl.int32), 0)
            share = tl.where(over | (on & (tie <= ties)), share, 0.0)
            reached = (passed + tl.cumsum(share, 0) > target) & (share > 0)
            # adding in another order may leave the target just out of reach: then it is the last one
            last = tl.max(tl.where(share > 0, place, -1), 0)
            found = tl.minimum(tl.min(tl.where(reached, place, 2147483647), 0), last)
        passed += mass
        seen += here
        begin += BLOCK
    if found != 2147483647:
        tl.store(token + row, found.to(tl.int64))
        chosen = tl.load(line + found).to(tl.float32)
        tl.store(confidence + row, tl.exp2((chosen - peak) * rate) / total)


@triton.jit
def _bisect(
    line, vocab, mask, peak, rate, low, high, goal, COUNT: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    """The highest key from which on the tokens sum up to the goal, and the sum of those above it.

    It lies near the peak, so the search goes down from there in doubling steps before it halves.
    """
    low, high = low.to(tl.int64), high.to(tl.int64)
    above = tl.zeros([], tl.int32 if COUNT else tl.float32)
    step = tl.full([], 1 << (6 if BITS == 16 else 22), tl.int64)
    while high - low > 1:
        middle = tl.maximum((low + high) // 2, high - step)
        value = _value(middle.to(tl.int32), line.dtype.element_ty, BITS)
        sum_ = _sum_from(line, vocab, mask, peak, rate, value, COUNT, BLOCK)
        if sum_ >= goal:
            low = middle
        else:
            step = 2 * (high - middle)
            high = middle
            above = sum_
    return low.to(tl.int32), above


@triton.jit
def _sum_from(line, vocab, mask, peak, rate, lowest, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The number, or the share, of the tokens whose logit is ``lowest`` or more."""
    result = tl.zeros([BLOCK], tl.int32 if COUNT else tl.float32)
    for begin in range(0, vocab, BLOCK):
        x = _logits(line, begin + tl.arange(0, BLOCK), vocab, mask)
        inside = x >= lowest
        if COUNT:
            result += inside.to(tl.int32)
        else:
            result += tl.where(inside, tl.exp2((x - peak) * rate), 0.0)
    return tl.sum(result, 0)


@triton.jit
def _row(sums, row, m, parts, rate, PARTS: tl.constexpr):
    """A row's peak and total, its parts' shares, and their peaks as powers of two relative to the row's and as is."""
    part = tl.arange(0, PARTS)
    inside = part < parts
    peaks = tl.load(sums + row * parts + part, mask=inside, other=float("-inf"))
    shares = tl.load(sums + m.to(tl.int64) * parts + row * parts + part, mask=inside, other=0.0)
    peak = tl.max(peaks, 0)
    lift = (peaks - peak) * rate
    shares = tl.where(inside, shares * tl.exp2(lift), 0.0)
    return peak, tl.sum(shares, 0), shares, lift, peaks


@triton.jit
def _rate(temperature, row):
    """What turns a difference of logits into a power of two."""
    if temperature is None:
        return _LOG2_E
    else:
        t = tl.load(temperature + row).to(tl.float32)
        return _LOG2_E / tl.where(t > 0, t, 1.0)


@triton.jit
def _logits(line, token, vocab, mask):
    x = tl.load(line + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
    return tl.where(token == mask, float("-inf"), x)


@triton.jit
def _key(x, dtype: tl.constexpr, BITS: tl.constexpr):
    """An int32 that orders floats of ``dtype`` as their values do; both zeros have the same."""
    if BITS == 16:
        bits = x.to(dtype).to(tl.int16, bitcast=True).to(tl.int32)
        key = tl.where(bits < 0, bits ^ 0x7FFF, bits)
    else:
        bits = x.to(tl.int32, bitcast=True)
        key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(x == 0, 0, key)


@triton.jit
def _value(key, dtype: tl.constexpr, BITS: tl.constexpr):
    """The inverse of ``_key``; below -inf there is only -inf."""
    if BITS == 16:
        bits = tl.where(key < 0, key ^ 0x7FFF, key)
        value = bits.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
    else:
        value = tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)
    return tl.where(value == value, value, float("-inf"))
