"""The truth: block-diffusion decoding without cache, pages, batches or any code of ours.

Every step runs transformers' model over the whole sequence so far. The engine, however it batches, must
produce the same tokens under the policy ``block``. Use a float64 model (``tiny.reference_model``), or
rounding can flip a threshold.
"""

from collections.abc import Callable, Collection

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

Draw = Callable[[Tensor, int, int], int]


@torch.inference_mode()
def naive_logits(model: Qwen3ForCausalLM, ids: list[int], block_size: int) -> Tensor:
    """Logits [n, vocab] under the block staircase: q sees k iff k // B <= q // B."""
    block = torch.arange(len(ids)) // block_size
    hidden = block[None, :] > block[:, None]
    mask = torch.zeros(hidden.shape, dtype=model.dtype).masked_fill(hidden, -torch.inf)
    out = model(input_ids=torch.tensor([ids]), attention_mask=mask[None, None], use_cache=False)
    return out.logits[0]


def naive_block(
    model: Qwen3ForCausalLM,
    prompt_ids: list[int],
    *,
    block_size: int,
    mask_id: int,
    shift: int,
    max_new_tokens: int,
    eos_ids: Collection[int] = (),
    rule: str = "low_confidence_dynamic",
    threshold: float = 0.9,
    transfer: int = 1,
    entropy_bound: float = 0.35,
    temperature: float = 0.0,
    repetition: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
    draw: Draw | None = None,
) -> tuple[list[int], int]:
    """Decode block by block; returns the new tokens and the number of denoising forwards.

    Args:
        draw: chooses a token from (probabilities [vocab] at ``temperature``, step, position); needed when
            ``temperature`` is not 0. Confidence is the chosen token's probability.
        repetition, frequency, presence: penalties on what was known before the step; the last two on the answer only.
    """
    end = len(prompt_ids) + max_new_tokens
    canvas = -(-end // block_size) * block_size
    tokens = prompt_ids + [mask_id] * (canvas - len(prompt_ids))
    known = [True] * len(prompt_ids) + [False] * (canvas - len(prompt_ids))
    steps = 0
    while True:
        frontier = known.index(False) if False in known else canvas
        answer = tokens[len(prompt_ids) : min(frontier, end)]
        for length, token in enumerate(answer, start=1):
            if token in eos_ids:
                return answer[:length], steps
        if frontier >= end:
            return answer, steps

        block_end = (frontier // block_size + 1) * block_size
        masks = [p for p in range(frontier, block_end) if not known[p]]
        logits = naive_logits(model, tokens[:block_end], block_size)[[p - shift for p in masks]]
        said = [tokens[p] for p in range(len(prompt_ids), canvas) if known[p]]
        for token in {*prompt_ids, *said}:
            column = logits[:, token]
            column = torch.where(column < 0, column * repetition, column / repetition)
            logits[:, token] = column - said.count(token) * frequency - (token in said) * presence
        logits[:, mask_id] = -torch.inf
        logprobs = (logits / (temperature or 1)).log_softmax(-1)
        probs = logprobs.exp()
        if temperature and draw is not None:
            chosen = [draw(probs[i], steps, p) for i, p in enumerate(masks)]
        else:
            chosen = probs.argmax(-1).tolist()
        confidence = [float(probs[i, token]) for i, token in enumerate(chosen)]
        entropy = torch.special.entr(probs).sum(-1).tolist()
        if shift and masks[0] % block_size == 0:
            # Predicted by the block before, which will never see more: certain as soon as it is offered.
            confidence[0], entropy[0] = 1.0, 0.0
        for i in _select(confidence, entropy, rule, threshold, transfer, entropy_bound):
            tokens[masks[i]], known[masks[i]] = chosen[i], True
        steps += 1


def _select(
    confidence: list[float], entropy: list[float], rule: str, threshold: float, transfer: int, bound: float
) -> list[int]:
    """Which of a block's masks commit, as indices; sorting is stable, so ties go to the left."""
    everyone = range(len(confidence))
    by_confidence = sorted(everyone, key=lambda i: -confidence[i])
    match rule:
        case "low_confidence_dynamic":
            above = sum(c > threshold for c in confidence)
            return by_confidence[: max(above, transfer)]
        case "low_confidence_static":
            return by_confidence[:transfer]
        case "sequential":
            return list(everyone)[:transfer]
        case "entropy_bounded":
            order = sorted(everyone, key=lambda i: entropy[i])
            below = sum(sum(entropy[i] for i in order[: n + 1]) < bound for n in everyone)
            return order[: max(below, 1)]
    raise ValueError(rule)


@torch.inference_mode()
def naive_ar(
    model: Qwen3ForCausalLM, prompt_ids: list[int], *, max_new_tokens: int, eos_ids: Collection[int] = ()
) -> list[int]:
    """Greedy autoregressive decoding, the whole sequence again for every token."""
    ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in eos_ids:
            break
    return ids[len(prompt_ids) :]
