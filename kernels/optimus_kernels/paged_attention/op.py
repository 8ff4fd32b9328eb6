"""The public functions: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.paged_attention.plan import AttentionPlan
from optimus_kernels.paged_attention.reference import paged_attention_reference, write_kv_reference


def write_kv(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, plan: AttentionPlan) -> None:
    """Store the K and V of a step's positions in the cache, in place.

    Args:
        k, v: [n, Hkv, D], in the order of the plan's rows.
        k_pages, v_pages: contiguous [pages, page_size, Hkv, D], one layer of the cache.
    """
    write_kv_reference(k, v, k_pages, v_pages, plan)


def paged_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: AttentionPlan) -> Tensor:
    """Attend each row's queries to the row's cached keys, its own included; scale 1 / sqrt(D).

    ``write_kv`` comes first. Slots that no row of the plan sees are never read, whatever they hold.

    Args:
        q: [n, Hq, D], in the order of the plan's rows; each Hq / Hkv neighbouring heads share a KV head.
        k_pages, v_pages: contiguous [pages, page_size, Hkv, D], one layer of the cache.

    Returns:
        [n, Hq, D].
    """
    return paged_attention_reference(q, k_pages, v_pages, plan)
