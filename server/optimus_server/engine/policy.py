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
    row = _row(request, request.chunk, request.frontier, request.cached, request.exact, request.drawn)
    if request.prefilling and row.width > budget:
        cut = min(row.start + budget, request.known - request.shift) // request.block_size * request.block_size
        return Row(request, row.start, cut, cut) if cut > row.start else None
    return row


def _row(request: Request, chunk: int, frontier: int, cached: int, exact: int, drawn: int) -> Row:
    """The row of a request with these lengths. It is asked for some times for every row of every step."""
    policy, shift = request.params.policy, request.shift
    border = frontier - frontier % request.block_size
    limit = border + request.block_size
    if policy == "stream" or limit > request.canvas:
        limit = request.canvas
    start = cached
    base = known if cached < (known := request.known - shift) else cached
    if request.elastic and chunk < (least := frontier - base + 1 - shift):
        # As ``Request.grant`` has it: a row offers a mask at least.
        chunk = least
    if policy in ("refresh", "stale") and exact < border:
        start, base = min(start, exact), max(base, border - shift)
    stop = base + chunk
    if stop > limit or policy == "block" or (policy == "stale" and drawn < limit):
        stop = limit
    if stop < start:
        stop = start
    return Row(request, start, stop, limit if policy == "stale" else stop)


def row_after(row: Row, chunk: int, frontier: int) -> Row:
    """The row that follows ``row``, whose result is not known yet, if that leaves the frontier at ``frontier``.

    Args:
        chunk: size of the next row.
    """
    request, block = row.request, row.request.block_size
    final = min(row.stop, request.frontier)
    exact = max(request.exact, final // block * block) if row.start <= request.exact else request.exact
    settled = exact if request.params.policy == "block" else max(exact, final)
    cached = max(request.cached, min(settled, frontier - request.shift))
    return _row(request, chunk, frontier, cached, exact, max(request.drawn, row.stop))


def outlook(row: Row, chunk: int) -> tuple[Row, Outlook]:
    """What may follow ``row``, whose result is not known yet, in one row, and what is to be expected.

    It starts where ``row`` does, if that finds no room in its step, and stops where everything that can
    be committed has been. A row that ends a prompt was known, so it has found room, and its whole blocks are done.
    """
    request = row.request
    farthest = request.first_mask(min(row.stop + request.shift, request.canvas))
    stay, leave = row_after(row, chunk, request.frontier), row_after(row, chunk, farthest)
    prompt = (request.known - request.shift) // request.block_size * request.block_size
    longest = max(stay.stop - stay.start, leave.stop - leave.start)
    if row.start >= prompt:
        again = row
        if chunk > request.chunk:
            again = _row(request, chunk, request.frontier, request.cached, request.exact, request.drawn)
        longest = max(longest, again.stop - again.start)
    start, stop = min(max(row.start, prompt), leave.start), max(row.stop, stay.stop, leave.stop)
    visible = max(row.visible, stay.visible, leave.visible)
    border = request.frontier // request.block_size * request.block_size + request.block_size
    masks = border - request.frontier if farthest >= border else 0
    return Row(request, start, stop, visible), Outlook(masks, stay.width, leave.width, longest)
