"""Queues of requests -> the rows of the next step.

The controller says how large the chunks are and how much prompt may join them. Order of service in a step: rows of
masks first, oldest request first; then prefill rows of running requests, then newly admitted requests, both within the
prefill budget. When pages run out, the youngest running request is preempted: it keeps its committed tokens, gives back
its pages and waits at the head of the queue.
"""

import itertools
import time
from collections import deque

from optimus_server.engine.blocks import BlockPool, Lease
from optimus_server.engine.elastic.controller import Choice, Controller, Situation
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import Request
from optimus_server.engine.step import Row, Step
from optimus_server.engine.telemetry import Decision

# A request too large for the pages left lets this many others pass before the queue waits for it; it keeps one
# long prompt from idling the engine, and a stream of short ones from starving the long one.
PATIENCE = 16


class Scheduler:
    """Owns every live request and its lease of pages.

    Args:
        pool: where pages come from.
        controller: chooses chunk sizes and the positions of prompt a step may compute.
        max_rows: requests that run at once.
    """

    def __init__(self, pool: BlockPool, controller: Controller, *, max_rows: int) -> None:
        self.pool = pool
        self.controller = controller
        self.max_rows = max_rows
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
        decoding: list[Request] = []
        prompts: list[Request] = []
        for request in self.running:
            (prompts if request.prefilling else decoding).append(request)
        choice = self._choose(decoding, prompts)
        rows = self._denoise(decoding)
        denoising = len(rows)
        budget = choice.prefill
        for request in prompts:
            if request.id in self._leases and (row := next_row(request, budget)):
                budget -= row.width
                rows.append(row)
        self._admit(rows, budget)
        tables = tuple(self._leases[row.request.id].table for row in rows)
        return Step(tuple(rows), tables, self._decision(choice, rows, denoising))

    def publish(self, request: Request) -> None:
        """Let other requests share what this one has computed exactly and will not write again."""
        lease = self._leases[request.id]
        self.pool.publish(lease, request.tokens, min(request.exact, request.cached))

    def check(self) -> None:
        """Raise AssertionError if a page is lost or held twice."""
        assert sorted(self._leases) == sorted(request.id for request in self.running)
        self.pool.check(list(self._leases.values()))

    def _choose(self, decoding: list[Request], prompts: list[Request]) -> Choice:
        """Ask the controller, and hand its chunk sizes out."""
        elastic = [request for request in decoding if request.elastic]
        fixed = [request for request in decoding if not request.elastic]
        prefill, joining = self._joining(prompts)
        choice = self.controller.choose(
            Situation(
                rows=elastic,
                joining=joining,
                fixed=sum(r.block_size if r.params.policy == "block" else r.chunk for r in fixed),
                fixed_rows=len(fixed),
                prefill=prefill,
                kv_tokens=sum([request.frontier for request in decoding]),
            )
        )
        for request, chunk in zip(elastic, choice.chunks, strict=True):
            request.grant(chunk)
        # Prompts end in a row that offers masks already.
        for request in (*prompts, *itertools.islice(self.waiting, PATIENCE)):
            if request.elastic:
                request.grant(self.controller.opening(request.params.policy))
        return choice

    def _joining(self, prompts: list[Request]) -> tuple[int, int]:
        """Positions of prompt that this step could compute, and how many requests will then begin to decode."""
        budget, joining = self.controller.prefill_budget, 0
        admissible = itertools.islice(self.waiting, max(0, self.max_rows - len(self.running)))
        for request in (*prompts, *admissible):
            if budget <= 0:
                break
            budget -= request.known - request.cached
            joining += budget >= 0 and request.elastic
        return self.controller.prefill_budget - max(budget, 0), joining

    def _decision(self, choice: Choice, rows: list[Row], decoding: int) -> Decision:
        widths = [row.stop - row.start for row in rows]
        positions, kv_tokens = sum(widths), sum([row.visible for row in rows])
        chunks = [row.request.chunk for row in rows[:decoding]]
        return Decision(
            chunk=choice.typical,
            smallest=min(chunks, default=0),
            largest=max(chunks, default=0),
            reason=choice.reason,
            rows=decoding,
            waiting=len(self.waiting),
            kv_used=1 - self.pool.available / self.pool.pages,
            positions=positions,
            prefill=sum(widths[decoding:]),
            kv_tokens=kv_tokens,
            expected_commits=choice.expected_commits,
            predicted_s=self.controller.latency.predict(positions, kv_tokens) if rows else 0.0,
        )

    def _denoise(self, decoding: list[Request]) -> list[Row]:
        rows = []
        for request in decoding:
            if request.id not in self._leases:
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
        need = min((request.frontier // block + 1) * block + request.chunk, request.canvas)
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
