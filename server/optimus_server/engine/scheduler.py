"""Queues of requests -> the rows of the next step.

The controller says how large the chunks are and how much prompt may join them. Order of service in a step: rows of
masks first, oldest request first; then prefill rows of running requests, then newly admitted requests, both within the
prefill budget. When pages run out, the youngest running request is preempted: it keeps its committed tokens, gives back
its pages and waits at the head of the queue.

A step may be scheduled while the one before is under way. Then rows that follow from its result are not known. There
are pages for the longest that may come of it, and there is room for what usually does (``Forecast``).
"""

import itertools
import time
from collections import deque

from optimus_server.engine.blocks import BlockPool, Lease
from optimus_server.engine.elastic.choice import Choice, Situation
from optimus_server.engine.elastic.controller import Controller
from optimus_server.engine.elastic.latency import LatencyModel
from optimus_server.engine.forecast import Forecast
from optimus_server.engine.policy import next_row, outlook
from optimus_server.engine.request import Request
from optimus_server.engine.step import Outlook, Row, Step, Turn
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
        self.know(controller.latency)
        self._leases: dict[str, Lease] = {}
        self._slots: dict[str, int] = {}
        self._free_slots = list(range(max_rows - 1, -1, -1))
        self._head: Request | None = None
        self._overtaken = 0

    def know(self, latency: LatencyModel) -> None:
        """Take step times."""
        self.controller.latency = latency
        # As measured: what is learned of step times is learned with the room that the forecast makes.
        self.forecast = Forecast(latency.profiled_many, latency.profile.rooms)

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a finished, failed or cancelled request and take its pages back."""
        if request.id in self._leases:
            self.running.remove(request)
            self._close(request)
        else:
            self.waiting.remove(request)

    def schedule(self) -> Step:
        """The next step; without turns only if nothing waits or runs, but for what the step under way may end."""
        decoding: list[Request] = []
        prompts: list[Request] = []
        for request in self.running:
            (prompts if request.prefilling and not request.in_flight else decoding).append(request)
        choice, chunks = self._choose(decoding, prompts)
        turns = self._denoise(decoding, chunks)
        denoising = len(turns)
        budget = choice.prefill
        for request in prompts:
            if request.id in self._leases and (row := next_row(request, budget)):
                budget -= row.width
                turns.append(self._turn(row))
        self._admit(turns, budget)
        positions, masks = self.forecast.room(turns)
        decision = self._decision(choice, turns, denoising, positions)
        # What is known comes first, then who waited: where room was forecast too small, it is the last that wait.
        turns.sort(key=lambda turn: (not turn.prompt, not turn.exact, not turn.request.waited))
        tables = tuple([self._leases[turn.request.id].table for turn in turns])
        return Step(tuple(turns), tables, decision, positions, masks)

    def publish(self, request: Request) -> None:
        """Let other requests share what this one has computed exactly and will not write again."""
        if lease := self._leases.get(request.id):
            self.pool.publish(lease, request.tokens, min(request.exact, request.cached))

    def check(self) -> None:
        """Raise AssertionError if a page is lost or held twice."""
        assert sorted(self._leases) == sorted(self._slots) == sorted(request.id for request in self.running)
        assert sorted([*self._slots.values(), *self._free_slots]) == list(range(self.max_rows))
        self.pool.check(list(self._leases.values()))

    def _choose(self, decoding: list[Request], prompts: list[Request]) -> tuple[Choice, dict[str, int]]:
        """Ask the controller, and hand its chunk sizes out; those who decode get theirs with their turn."""
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
                ahead=any(request.in_flight for request in decoding),
                present=self.forecast.present,
            )
        )
        # Prompts end in a row that offers masks already.
        for request in (*prompts, *self._next()):
            if request.elastic:
                request.grant(self.controller.opening(request.params.policy))
        return choice, {request.id: chunk for request, chunk in zip(elastic, choice.chunks, strict=True)}

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

    def _decision(self, choice: Choice, turns: list[Turn], decoding: int, positions: int) -> Decision:
        kv_tokens = sum([turn.row.visible for turn in turns])
        chunks = [turn.chunk for turn in turns[:decoding]]
        return Decision(
            chunk=choice.typical,
            smallest=min(chunks, default=0),
            largest=max(chunks, default=0),
            reason=choice.reason,
            rows=decoding,
            waiting=len(self.waiting),
            kv_used=1 - self.pool.available / self.pool.pages,
            positions=positions,
            prefill=sum([turn.row.width for turn in turns[decoding:]]),
            kv_tokens=kv_tokens,
            expected_commits=choice.expected_commits,
            predicted_s=self.controller.latency.predict(positions, kv_tokens) if turns else 0.0,
        )

    def _denoise(self, decoding: list[Request], chunks: dict[str, int]) -> list[Turn]:
        turns = []
        for request in decoding:
            if request.id not in self._leases:
                continue
            chunk = chunks.get(request.id, request.chunk)
            if not request.in_flight and request.elastic:
                request.grant(chunk)
            # A row under way that ends a prompt is decoding already, so no budget cuts it.
            row = next_row(request, request.canvas)
            assert row is not None
            row, expected = outlook(row, chunk) if request.in_flight else (row, None)
            if self._reserve(request, row.visible):
                turns.append(self._turn(row, chunk, expected))
        return turns

    def _turn(self, row: Row, chunk: int | None = None, expected: Outlook | None = None) -> Turn:
        request = row.request
        prompt = row.stop <= request.known - request.shift
        return Turn(row, self._slots[request.id], chunk or request.chunk, expected, prompt, request.fresh)

    def _reserve(self, request: Request, positions: int) -> bool:
        """Pages for ``positions``, from younger requests if need be; False if the request cannot have its turn."""
        while not self.pool.grow(self._leases[request.id], positions):
            if request.in_flight:
                # Perhaps it does not need so many.
                return False
            victim = self.running.pop()
            victim.preemptions += 1
            self._close(victim)
            self.waiting.appendleft(victim)
            if victim is request:
                return False
        return True

    def _close(self, request: Request) -> None:
        """Take pages and slot back. Rows still under way may use them: what comes later is computed later."""
        self.pool.close(self._leases.pop(request.id))
        self._free_slots.append(self._slots.pop(request.id))

    def _next(self) -> tuple[Request, ...]:
        """Those of whom some may be admitted in this step."""
        places = self.max_rows - len(self.running)
        return tuple(itertools.islice(self.waiting, places + PATIENCE if places else 0))

    def _admit(self, turns: list[Turn], budget: int) -> None:
        for request in self._next():
            head = self.waiting[0]
            if head is not self._head:
                self._head, self._overtaken = head, 0
            impatient = request is not head and self._overtaken >= PATIENCE
            # Who cannot begin waits: until then its prompt may be in the cache.
            if budget < request.block_size or len(self.running) >= self.max_rows or impatient:
                return
            if request.in_flight or not self._open(request):
                continue
            self._overtaken += request is not head
            self.waiting.remove(request)
            self.running.append(request)
            request.admitted = request.admitted or time.perf_counter()
            if row := next_row(request, budget):
                budget -= row.width
                turns.append(self._turn(row))

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
        self._slots[request.id] = self._free_slots.pop()
        return True
