"""The public function: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.paged_attention.plan import AttentionPlan
from optimus_kernels.paged_attention.reference import paged_attention_reference


def paged_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend each row's queries to the row's cached keys, its own included; scale 1 / sqrt(D).

    The keys are written first (``norm_rotate_store``). Slots that no row of the plan sees never matter, whatever they
    hold.

    Args:
        q: [n, Hq, D], in the order of the plan's rows; each Hq / Hkv neighbouring heads share a KV head.
        k_pages, v_pages: contiguous [pages, page_size, Hkv, D], one layer of the cache.

    Returns:
        [n, Hq, D].
    """
    if q.is_cuda:
        from optimus_kernels.paged_attention.kernel import paged_attention_triton

        return paged_attention_triton(q, k_pages, v_pages, plan)
    return paged_attention_reference(q, k_pages, v_pages, plan)
