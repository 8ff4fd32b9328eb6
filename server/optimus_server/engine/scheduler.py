"""Queues of requests -> the rows of the next step.

Order of service in a step: rows of masks first, oldest request first; then prefill rows of running requests, then
newly admitted requests, both within the prefill budget. When pages run out, the youngest running request is
preempted: it keeps its committed tokens, gives back its pages and waits at the head of the queue.
"""

import itertools
import time
from collections import deque

from optimus_server.engine.blocks import BlockPool, Lease
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import Request, Row, Step

# A request too large for the pages left lets this many others pass before the queue waits for it; it keeps one
# long prompt from idling the engine, and a stream of short ones from starving the long one.
PATIENCE = 16


class Scheduler:
    """Owns every live request and its lease of pages.

    Args:
        pool: where pages come from.
        max_rows: requests that run at once.
        prefill_budget: positions of prompt a step may compute; at least one block.
    """

    def __init__(self, pool: BlockPool, *, max_rows: int, prefill_budget: int) -> None:
        self.pool = pool
        self.max_rows = max_rows
        self.prefill_budget = prefill_budget
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._leases: dict[str, Lease] = {}
        self._head: Request | None = None
        self._overtaken = 0

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a finished, failed or cancelled request and take its pages back."""
        if request.id in self._leases:
            self.running.remove(request)
            self.pool.close(self._leases.pop(request.id))
        else:
            self.waiting.remove(request)

    def schedule(self) -> Step:
        """The next step; without rows only if nothing waits or runs."""
        rows = self._denoise()
        budget = self.prefill_budget
        for request in self.running:
            if request.prefilling and (row := next_row(request, budget)):
                budget -= row.width
                rows.append(row)
        self._admit(rows, budget)
        return Step(tuple(rows), tuple(self._leases[row.request.id].table for row in rows))

    def publish(self, request: Request) -> None:
        """Let other requests share what this one has computed exactly and will not write again."""
        lease = self._leases[request.id]
        self.pool.publish(lease, request.tokens, min(request.exact, request.cached))

    def check(self) -> None:
        """Raise AssertionError if a page is lost or held twice."""
        assert sorted(self._leases) == sorted(request.id for request in self.running)
        self.pool.check(list(self._leases.values()))

    def _denoise(self) -> list[Row]:
        rows = []
        for request in tuple(self.running):
            if request.id not in self._leases or request.prefilling:
                continue
            row = next_row(request, 0)
            assert row is not None
            if self._reserve(request, row.visible):
                rows.append(row)
        return rows

    def _reserve(self, request: Request, positions: int) -> bool:
        """Pages for ``positions``, from younger requests if need be; False if the request itself had to go."""
        while not self.pool.grow(self._leases[request.id], positions):
            victim = self.running.pop()
            victim.preemptions += 1
            self.pool.close(self._leases.pop(victim.id))
            self.waiting.appendleft(victim)
            if victim is request:
                return False
        return True

    def _admit(self, rows: list[Row], budget: int) -> None:
        for request in tuple(itertools.islice(self.waiting, PATIENCE)):
            head = self.waiting[0]
            if head is not self._head:
                self._head, self._overtaken = head, 0
            impatient = request is not head and self._overtaken >= PATIENCE
            if budget <= 0 or len(self.running) >= self.max_rows or impatient:
                return
            if not self._open(request):
                continue
            self._overtaken += request is not head
            self.waiting.remove(request)
            self.running.append(request)
            request.admitted = request.admitted or time.perf_counter()
            if row := next_row(request, budget):
                budget -= row.width
                rows.append(row)

    def _open(self, request: Request) -> bool:
        """Lease the pages of a waiting request up to its first row of masks; False if there are too few."""
        block = request.block_size
        need = min((request.frontier // block + 1) * block + request.params.chunk, request.canvas)
        lease = self.pool.open(request.tokens[: request.frontier - request.shift])
        # One block a running request stays free, or admission would take what they are about to grow into.
        spare = len(self.running) * self.pool.pages_for(block)
        missing = self.pool.pages_for(need) - len(lease.table)
        if (self.running and missing + spare > self.pool.available) or not self.pool.grow(lease, need):
            self.pool.close(lease)
            return False
        request.restart(len(lease.nodes) * self.pool.unit)
        self._leases[request.id] = lease
        return True
