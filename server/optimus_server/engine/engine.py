"""The engine: schedule, pack, run, apply, emit."""

import logging
from dataclasses import dataclass

from optimus_server.engine.batch import pack
from optimus_server.engine.blocks import BlockPool
from optimus_server.engine.request import Event, Failed, Finished, Request, Step
from optimus_server.engine.runner import Runner
from optimus_server.engine.scheduler import Scheduler
from optimus_server.errors import InvalidRequest
from optimus_server.models.loader import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Sizes of one engine.

    Attributes:
        pages, page_size: the KV pool, in pages and in positions a page.
        max_rows: requests that run at once.
        prefill_budget: positions of prompt one step may compute, at least one block; a row that also offers masks is
            never cut, so a step may exceed it by that row.
        share_prefix: keep a prefix cache.
    """

    pages: int
    page_size: int = 32
    max_rows: int = 64
    prefill_budget: int = 512
    share_prefix: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is right now."""

    running: int
    waiting: int
    free_pages: int
    pages: int


class Engine:
    """Continuous batching of block-diffusion requests over one model; used by one thread only.

    Example:

        >>> engine = Engine(load_model(path), EngineOptions(pages=256))
        >>> engine.add(Request("a", (5, 6, 7), Params(max_new_tokens=8), block_size=32, shift=1))
        >>> while engine.busy:
        ...     for request_id, event in engine.step():
        ...         print(request_id, event)
    """

    def __init__(self, model: LoadedModel, options: EngineOptions) -> None:
        if options.prefill_budget < model.config.block_size:
            raise ValueError(f"prefill_budget must be at least the block size, {model.config.block_size}")
        if options.max_rows < 1:
            raise ValueError("max_rows must be at least 1")
        self.config = model.config
        self.options = options
        self.pool = BlockPool(options.pages, options.page_size, model.config.block_size, share=options.share_prefix)
        self.scheduler = Scheduler(self.pool, max_rows=options.max_rows, prefill_budget=options.prefill_budget)
        self.runner = Runner(model, pages=options.pages, page_size=options.page_size)
        self._requests: dict[str, Request] = {}
        self._events: list[tuple[str, Event]] = []

    @property
    def capacity(self) -> int:
        """Positions one request may span: what the checkpoint was made for, or all of the KV pool."""
        pool = self.options.pages * self.options.page_size
        whole_blocks = min(self.config.max_position_embeddings, pool) // self.config.block_size
        return whole_blocks * self.config.block_size

    @property
    def busy(self) -> bool:
        """Whether a step would do or tell anything."""
        return bool(self._requests or self._events)

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            InvalidRequest: it could not run even alone; nothing was queued.
        """
        if request.canvas > self.capacity:
            raise InvalidRequest(
                f"`inputs` tokens + `max_new_tokens`, rounded up to whole blocks, must be <= {self.capacity}. "
                f"Given: {request.canvas}",
                param="max_new_tokens",
            )
        self._requests[request.id] = request
        self.scheduler.add(request)

    def cancel(self, request_id: str) -> None:
        """End a request now; its ``Finished`` comes with the next step. Unknown and ended ids are ignored."""
        if request := self._requests.get(request_id):
            self._end(request, Finished("cancelled", request.usage()))

    def step(self) -> list[tuple[str, Event]]:
        """Compute one step of every row that fits; the events it caused, in order."""
        step = self.scheduler.schedule()
        if step.rows:
            self._run(step)
        events, self._events = self._events, []
        return events

    def load(self) -> Load:
        scheduler = self.scheduler
        return Load(len(scheduler.running), len(scheduler.waiting), self.pool.available, self.options.pages)

    def check(self) -> None:
        """Raise AssertionError if pages or requests were lost."""
        self.scheduler.check()
        live = [request.id for request in (*self.scheduler.running, *self.scheduler.waiting)]
        assert sorted(live) == sorted(self._requests)

    def _run(self, step: Step) -> None:
        try:
            batch = pack(
                step,
                mask_id=self.config.mask_token_id,
                vocab_size=self.config.vocab_size,
                page_size=self.options.page_size,
                device=self.runner.device,
            )
            results = self.runner.run(batch)
        except Exception as error:
            # Only the requests of this step can have caused it; the others, and the server, go on.
            logger.exception("A step of %d rows failed", len(step.rows))
            for row in step.rows:
                self._fail(row.request, f"the model failed on this step: {type(error).__name__}")
            return
        for row, commits in zip(step.rows, results, strict=True):
            request = row.request
            if not commits.valid:
                self._fail(request, "the model's output was not a number")
                continue
            events = request.apply(row, commits.positions, commits.ids, commits.logprobs)
            self._events.extend((request.id, event) for event in events)
            if len(commits.positions):
                # What is shared has led to an output that was looked at; a prefill row alone has not.
                self.scheduler.publish(request)
            if request.finished:
                self._forget(request)

    def _fail(self, request: Request, message: str) -> None:
        self._end(request, Failed(message, request.usage()))

    def _end(self, request: Request, event: Event) -> None:
        request.finished = True
        self._events.append((request.id, event))
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self.scheduler.remove(request)
        del self._requests[request.id]
