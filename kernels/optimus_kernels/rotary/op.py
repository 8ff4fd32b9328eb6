"""The public function: the one place where the device chooses the implementation."""

from torch import Tensor

from optimus_kernels.rotary.reference import norm_rotate_store_reference


def norm_rotate_store(
    qkv: Tensor,
    norm: Tensor | None,
    eps: float,
    table: Tensor,
    positions: Tensor,
    slots: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
) -> Tensor:
    """Norm and rotate the heads of q and k, and store k and v in the cache, in place.

    Args:
        qkv: [n, Hq + 2 * Hkv, D], the heads of q, then of k, then of v.
        norm: [Hq + Hkv, D], the weight of each head's RMS norm; None where the model has no such norm.
        table: [positions, 2, R], cosines and signed sines of the half-split rotary embedding (``rope_tables``). Only
            the first R of D dimensions rotate.
        positions: int64 [n], each one's row of the table.
        slots: int32 [n], where each position's K and V belong; -1 is nowhere (``AttentionPlan.slots``).
        k_pages, v_pages: contiguous [pages, page_size, Hkv, D], one layer of the cache.

    Returns:
        q, contiguous [n, Hq, D].
    """
    if qkv.is_cuda:
        from optimus_kernels.rotary.kernel import norm_rotate_store_triton

        return norm_rotate_store_triton(qkv, norm, eps, table, positions, slots, k_pages, v_pages)
    return norm_rotate_store_reference(qkv, norm, eps, table, positions, slots, k_pages, v_pages)
