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
from optimus_server.engine.step import Outlook, Row


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


def row_after(row: Row, chunk: int, frontier: int) -> Row:
    """The row that follows ``row``, whose result is not known yet, if that leaves the frontier at ``frontier``.

    Args:
        chunk: size of the next row.
    """
    request = row.request
    policy, block, shift = request.params.policy, request.block_size, request.shift
    border = frontier // block * block
    limit = request.canvas if policy == "stream" else min(border + block, request.canvas)
    final = min(row.stop, request.frontier)
    exact = max(request.exact, final // block * block) if row.start <= request.exact else request.exact
    start = max(request.cached, min(exact if policy == "block" else max(exact, final), frontier - shift))
    base = max(start, request.known - shift)
    if policy in ("refresh", "stale") and exact < border:
        start, base = min(start, exact), max(base, border - shift)
    if policy == "block" or (policy == "stale" and max(request.drawn, row.stop) < limit):
        stop = limit
    else:
        wanted = max(chunk, frontier - base + 1 - shift) if request.elastic else chunk
        stop = max(start, min(base + wanted, limit))
    return Row(request, start, stop, limit if policy == "stale" else stop)


def outlook(row: Row, chunk: int) -> tuple[Row, Outlook]:
    """The longest row that may follow ``row``, whose result is not known yet, and what is to be expected.

    The longest one starts where ``row`` does, if that finds no room in its step, and stops where everything that can
    be committed has been. A row that ends a prompt was known, so it has found room, and its whole blocks are done.
    """
    request = row.request
    farthest = request.first_mask(min(row.stop + request.shift, request.canvas))
    stay, leave = row_after(row, chunk, request.frontier), row_after(row, chunk, farthest)
    prompt = (request.known - request.shift) // request.block_size * request.block_size
    start, stop = min(max(row.start, prompt), leave.start), max(row.stop, stay.stop, leave.stop)
    visible = max(row.visible, stay.visible, leave.visible)
    border = request.frontier // request.block_size * request.block_size + request.block_size
    masks = border - request.frontier if farthest >= border else 0
    return Row(request, start, stop, visible), Outlook(masks, stay.width, leave.width)
