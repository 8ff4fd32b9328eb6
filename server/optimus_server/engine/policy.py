"""The decoding policies: which row a request offers to the next step.

Every policy is a choice of ``stop`` (and, for ``refresh``, of ``start``); when ``cached`` may move stands in
:meth:`Request.apply`. With B = 8, c = 3 and a row written as ``c`` committed, ``m`` mask, ``.`` not computed:

    block      [cccmcmmm]            the whole block, every step, until a clean pass of it rides with the next block
    chunk       ..[cmm]...           from ``cached``, c positions, never past the block that holds the frontier
    refresh    [cccccccc][mmm].....  as chunk, but a finished block is computed once more, clean, with the next row
    stale       ..[cmm]mmm           as refresh, and the masks to the right stay visible, drawn once per block
    stream      ..[cmm]              from ``cached``, c positions, across block borders

In-block chunking is the method of "Optimus: Elastic Decoding for Efficient Diffusion LLM Serving"
(arXiv 2605.24832). The device makes the same rows from what it knows itself (``optimus_kernels.layout``).
"""

from optimus_server.engine.request import Request
from optimus_server.engine.step import Row


def next_row(request: Request, budget: int) -> Row | None:
    """The row to compute next, or None if it is a prefill row that ``budget`` positions cannot begin.

    A row of masks is never cut: its width is the request's chunk. A prefill row
    longer than the budget ends on a block border, so that what it caches is exact.
    """
    policy, chunk, block = request.params.policy, request.chunk, request.block_size
    border = request.frontier // block * block
    limit = border + block
    start = request.cached
    base = max(start, request.known - request.shift)
    if policy in ("refresh", "stale") and request.exact < border:
        start = min(start, request.exact)
        base = max(base, border - request.shift)
    if policy == "stream":
        limit = request.canvas
    stop = min(base + chunk, limit)
    if policy == "block" or (policy == "stale" and request.drawn < limit):
        stop = limit
    if request.prefilling and stop - start > budget:
        cut = min(start + budget, request.known - request.shift) // block * block
        return Row(request, start, cut, cut) if cut > start else None
    return Row(request, start, stop, limit if policy == "stale" else stop)


def longest_after(row: Row, chunk: int) -> Row:
    """The longest row that may follow ``row``, whose result is not known yet: from where that one starts, if it finds
    no room in its step, to where the next one stops if everything commits.

    Args:
        chunk: size of the next row.
    """
    request = row.request
    policy, block, shift = request.params.policy, request.block_size, request.shift
    frontier = request.first_mask(min(row.stop + shift, request.canvas))
    limit = request.canvas if policy == "stream" else min((frontier // block + 1) * block, request.canvas)
    base = max(min(row.stop, request.frontier), request.known - shift)
    start = row.start
    if policy in ("refresh", "stale"):
        start, base = min(start, request.exact), max(base, frontier // block * block - shift)
    stop = limit if policy in ("block", "stale") else min(max(base + chunk, frontier + 1 - shift), limit)
    stop = max(stop, row.stop)
    return Row(request, start, stop, limit if policy == "stale" else stop)
