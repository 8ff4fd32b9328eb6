"""The public function: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.choose.plan import Sampling
from optimus_kernels.choose.reference import choose_reference


def choose(
    logits: Tensor, mask_id: int | None, sampling: Sampling | None = None, *, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Choose a token for each row of ``logits [m, vocab]``.

    Greedy rows take the most probable token, the first of equals. Sampled rows keep the ``top_k`` most probable tokens
    (the first of equals), of these the most probable up to and including the one that reaches ``top_p`` of what is
    left, and draw by inverting the cumulative distribution of the kept tokens, in the order of the vocabulary, at
    ``uniform``.

    Confidence is the probability of the chosen token at the row's temperature (1 when greedy), before top-k and top-p:
    filtering would make every survivor look certain, and greedy decoding as top-k = 1 would commit whole blocks.

    Args:
        mask_id: a token that has no share and is never chosen.
        sampling: None where all rows are greedy.
        entropy: whether entropies are wanted.

    Returns:
        token int64 ``[m]``, confidence ``[m]`` and entropy ``[m]`` in nats (or None), in float32 or, for float64
        logits, float64. The confidence of a row with logits that are not numbers is NaN.
    """
    if logits.is_cuda:
        from optimus_kernels.choose.kernel import choose_triton

        return choose_triton(logits, mask_id, sampling, entropy=entropy)
    return choose_reference(logits, mask_id, sampling, entropy=entropy)
