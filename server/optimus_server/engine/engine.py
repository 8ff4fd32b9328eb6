"""The engine: schedule, run, apply, learn, emit.

On a GPU a step is scheduled and launched while the one before is under way, so that the device never waits for the
host: what the host knows is one step old. Nothing else is different, and on a CPU the step before is always over.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from optimus_server.engine.blocks import BlockPool
from optimus_server.engine.elastic.controller import Controller
from optimus_server.engine.elastic.latency import LatencyModel, Profile
from optimus_server.engine.elastic.yields import YieldModel
from optimus_server.engine.flight import Done, Flight
from optimus_server.engine.request import NOTHING, Commits, Event, Failed, Finished, Request
from optimus_server.engine.runner import Runner
from optimus_server.engine.scheduler import Scheduler
from optimus_server.engine.step import Landed, Row, Step
from optimus_server.engine.telemetry import Feed, Load
from optimus_server.errors import InvalidRequest
from optimus_server.models.config import ModelConfig
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
        profile: step times of this model on this device, as far as they are known.
        tpot_s: target for the time per output token, seconds; None is none.
        ragged: whether requests of one step may differ in chunk size.
        ladder: chunk sizes the controller chooses from, ascending; None is the model's own ladder.
    """

    pages: int
    page_size: int = 32
    max_rows: int = 64
    prefill_budget: int = 512
    share_prefix: bool = True
    profile: Profile = field(default_factory=Profile.unmeasured)
    tpot_s: float | None = None
    ragged: bool = True
    ladder: tuple[int, ...] | None = None


class StepRunner(Protocol):
    """What computes a step: ``Runner``, or a simulation of one; see there."""

    config: ModelConfig
    ahead: bool

    def launch(self, step: Step) -> Callable[[], Landed]: ...


class Engine:
    """Continuous batching of block-diffusion requests over one model; used by one thread only.

    Example:

        >>> engine = Engine(load_model(path), EngineOptions(pages=256))
        >>> engine.add(Request("a", (5, 6, 7), Params(max_new_tokens=8), block_size=32, shift=1))
        >>> while engine.busy:
        ...     for request_id, event in engine.step():
        ...         print(request_id, event)
    """

    def __init__(
        self,
        model: LoadedModel | StepRunner,
        options: EngineOptions,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if options.prefill_budget < model.config.block_size:
            raise ValueError(f"prefill_budget must be at least the block size, {model.config.block_size}")
        if options.max_rows < 1:
            raise ValueError("max_rows must be at least 1")
        self.config = config = model.config
        self.options = options
        self.pool = BlockPool(options.pages, options.page_size, config.block_size, share=options.share_prefix)
        self.controller = Controller(
            LatencyModel(options.profile),
            YieldModel(config.block_size, config.logit_shift, options.ladder),
            block_size=config.block_size,
            prefill_budget=options.prefill_budget,
            tpot_s=options.tpot_s,
            ragged=options.ragged,
        )
        self.scheduler = Scheduler(self.pool, self.controller, max_rows=options.max_rows)
        self.runner: StepRunner = (
            Runner(model, pages=options.pages, page_size=options.page_size) if isinstance(model, LoadedModel) else model
        )
        self.feed = Feed()
        self.steps = 0
        self._clock = clock
        self._requests: dict[str, Request] = {}
        self._unforeseeable: set[str] = set()
        self._events: list[tuple[str, Event]] = []
        self._untold: Done | None = None
        self._flight: Flight | None = None
        self._landed = 0.0

    @property
    def capacity(self) -> int:
        """Positions one request may span: what the checkpoint was made for, or all of the KV pool."""
        pool = self.options.pages * self.options.page_size
        whole_blocks = min(self.config.max_position_embeddings, pool) // self.config.block_size
        return whole_blocks * self.config.block_size

    @property
    def busy(self) -> bool:
        """Whether a step would do or tell anything."""
        return bool(self._requests or self._events or self._flight)

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
        if not request.params.foreseeable:
            self._unforeseeable.add(request.id)
        self.scheduler.add(request)

    def cancel(self, request_id: str) -> None:
        """End a request now; its ``Finished`` comes with the next step. Unknown and ended ids are ignored."""
        if request := self._requests.get(request_id):
            request.finished = True
            self._events.append((request.id, Finished("cancelled", request.usage())))
            self._forget(request)

    def know(self, profile: Profile) -> None:
        """Take step times that were measured."""
        self.scheduler.know(LatencyModel(profile))

    def steer(self, *, chunk: int | None, tpot_s: float | None) -> None:
        """Pin the chunk size of requests that leave it open, or not, and set the target for those without one."""
        self.controller.pinned, self.controller.tpot_s = chunk, tpot_s

    def step(self, meanwhile: Callable[[], None] | None = None) -> list[tuple[str, Event]]:
        """Compute one step of every row that fits; the events it caused, in order.

        Args:
            meanwhile: what the caller has to do, such as to hand on the events of the step before; called once, while
                the device computes. With it, a step is published during the next one, just before that call.
        """
        before = self._flight
        if before and not self._ahead:
            # What is scheduled next must know all of it.
            self._land(before)
            before = None
        self._flight = self._launch()
        if meanwhile:
            self._tell()
            meanwhile()
        if before:
            self._land(before)
        if self._flight and not self._ahead:
            self._land(self._flight)
            self._flight = None
        if not (meanwhile and self._requests):
            self._tell()
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

    @property
    def _ahead(self) -> bool:
        """Whether the next step may be launched before the one under way is over."""
        return self.runner.ahead and not self._unforeseeable

    def _launch(self) -> Flight | None:
        began = self._clock()
        step = self.scheduler.schedule()
        if not step.turns:
            return None
        try:
            wait = self.runner.launch(step)
        except Exception as error:
            self._fail_all(step, error)
            return None
        for turn in step.turns:
            turn.request.fresh = False
            if turn.prompt:
                # Nothing about its result is unknown.
                self._apply(turn.row, NOTHING)
                if turn.request.finished:
                    self._forget(turn.request)
            else:
                turn.request.in_flight += 1
        return Flight(step, began, wait)

    def _land(self, flight: Flight) -> None:
        """Take the result of a step."""
        for turn in flight.step.turns:
            turn.request.in_flight -= not turn.prompt
        try:
            landed = flight.wait()
        except Exception as error:
            self._fail_all(flight.step, error)
            return
        now = self._clock()
        seconds, self._landed = now - max(flight.began, self._landed), now
        turns, results = flight.rows(landed, self.scheduler.forecast)
        if not turns:
            # All of them had ended before.
            return
        before = [turn.request.frontier for turn in turns]
        for turn, commits in zip(turns, results, strict=True):
            if not turn.prompt:
                self._apply(turn.row, commits)
        self.steps += 1
        done = Done(self.steps, time.time() - seconds, seconds, flight.step.decision, turns, results, before)
        done.look_back(self.scheduler.forecast)
        try:
            self.controller.learn(done.decision, turns, results, seconds)
        except Exception:
            # No request depends on what is learned.
            logger.exception("Step %d was not learned from", self.steps)
        self._tell()
        if self.feed.active:
            self._untold = done
        for turn in turns:
            if turn.request.finished:
                self._forget(turn.request)

    def _tell(self) -> None:
        """Publish the last step, if that is still to be done."""
        done, self._untold = self._untold, None
        if done:
            self.feed.publish(done.trace())

    def _fail_all(self, step: Step, error: Exception) -> None:
        """Only the requests of this step can have caused it; the others, and the server, go on."""
        logger.error("A step of %d rows failed", len(step.turns), exc_info=error)
        for turn in step.turns:
            if not turn.request.finished:
                self._fail(turn.request, f"the model failed on this step: {type(error).__name__}")
                self._forget(turn.request)

    def _apply(self, row: Row, commits: Commits) -> None:
        request = row.request
        if not commits.valid:
            self._fail(request, "the model's output was not a number")
            return
        try:
            for event in request.apply(row.start, row.stop, commits):
                self._events.append((request.id, event))
            if len(commits.positions):
                # What is shared has led to an output that was looked at; a prefill row alone has not.
                self.scheduler.publish(request)
        except Exception as error:
            logger.exception("A row of %s failed", request.id)
            if not request.finished:
                self._fail(request, f"the engine failed on this row: {type(error).__name__}")

    def _fail(self, request: Request, message: str) -> None:
        request.finished = True
        self._events.append((request.id, Failed(message, request.usage())))

    def _forget(self, request: Request) -> None:
        self.scheduler.remove(request)
        self.controller.forget(request.id)
        self._unforeseeable.discard(request.id)
        del self._requests[request.id]
