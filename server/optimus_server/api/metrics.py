"""Prometheus metrics: those that TGI's dashboards ask for, by TGI's names, and our own.

TGI's counters have bare names, without the ``_total`` that prometheus_client would add and for which no TGI panel asks;
they are exported as untyped samples. A denoising step counts as ``method="decode"``.
"""

import math
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from optimus_server.engine.request import Usage
from optimus_server.engine.telemetry import StepTrace
from optimus_server.errors import InvalidRequest, OptimusError, Overloaded, TemplateFailed

SECONDS = tuple(0.0001 * 1.5**k for k in range(1, 36))
"""TGI's buckets of durations; the last is 145 s."""

SHARES = (*range(1, 17), 20, 24, 32, 48, 64, 96, 128)


class Metrics:
    """Everything /metrics shows, of one server.

    Args:
        max_input_tokens, max_total_tokens: the ends of TGI's linear buckets.
        batch_tokens: the size of the KV pool.
    """

    def __init__(self, *, max_input_tokens: int, max_total_tokens: int, batch_tokens: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._requests = self._bare("tgi_request_count", "requests that were valid or refused")
        self._successes = self._bare("tgi_request_success", "answers that came to their end")
        self._failures = self._bare("tgi_request_failure", "requests that did not, by cause", "err")
        self._duration = self._histogram("tgi_request_duration", "arrival to end", SECONDS)
        self._validation = self._histogram("tgi_request_validation_duration", "arrival to valid prompt", SECONDS)
        self._queue = self._histogram("tgi_request_queue_duration", "valid prompt to first step", SECONDS)
        self._inference = self._histogram("tgi_request_inference_duration", "first step to end", SECONDS)
        self._per_token = self._histogram(
            "tgi_request_mean_time_per_token_duration", "inference over generated tokens", SECONDS
        )
        inputs, totals = _steps(max_input_tokens), _steps(max_total_tokens)
        self._input = self._histogram("tgi_request_input_length", "tokens of the prompt", inputs)
        self._generated = self._histogram("tgi_request_generated_tokens", "tokens of the answer", totals)
        self._allowed = self._histogram("tgi_request_max_new_tokens", "tokens the answer might have had", totals)
        self._skipped = self._histogram("tgi_request_skipped_tokens", "tokens less steps of an answer", totals)
        self._gauge("tgi_batch_max_total_tokens", "tokens the KV pool holds").set(batch_tokens)
        self._first_token = self._histogram(
            "optimus_time_to_first_token_seconds", "valid prompt to first token of the prefix", SECONDS
        )
        self._per_forward = self._histogram("optimus_tokens_per_forward", "tokens over steps of an answer", SHARES)
        self._batches = self._bare("tgi_batch_inference_count", "steps, by method", "method")
        self._batch_successes = self._bare("tgi_batch_inference_success", "steps that did not fail", "method")
        self._batch_size = self._histogram("tgi_batch_next_size", "requests of a step", _doublings(1024))
        self._batch_duration, self._forward = (
            Histogram(name, "duration of a step", ["method"], buckets=SECONDS, registry=self._registry)
            for name in ("tgi_batch_inference_duration", "tgi_batch_forward_duration")
        )
        self._step = self._histogram("optimus_step_duration_seconds", "duration of a step", SECONDS)
        self._predicted = Counter(
            "optimus_step_predicted_seconds", "what steps should have taken", registry=self._registry
        )
        self._chunk = self._histogram("optimus_chunk_size", "chunk size of a step that decodes", _doublings(128))
        self._committed = self._histogram("optimus_committed_per_step", "tokens a step commits", _doublings(4096))
        self._decisions = Counter(
            "optimus_chunk_decisions", "steps by the reason of their chunk size", ["reason"], registry=self._registry
        )
        self._first_commit = self._histogram(
            "optimus_time_to_first_commit_seconds", "valid prompt to first commit anywhere in the answer", SECONDS
        )
        self._wasted = Counter(
            "optimus_wasted_tokens", "tokens decided and never sent", registry=self._registry
        )  # fmt: skip

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        self._gauge(name, text).set_function(read)

    def refused(self, error: OptimusError) -> None:
        """A request that never reached the engine."""
        self._requests.add()
        self._failures.add(_cause(error))

    def began(self) -> None:
        """A request whose prompt is valid."""
        self._requests.add()

    def ended(self, cause: str) -> None:
        """It did not come to its end, because of ``generation``, or was ``dropped`` by its client."""
        self._failures.add(cause)

    def answered(
        self, usage: Usage, *, generated: int, allowed: int, total_s: float, validation_s: float, first_token_s: float
    ) -> None:
        """It came to its end.

        Args:
            generated: tokens that were sent.
            allowed: ``max_new_tokens``.
        """
        self._successes.add()
        self._duration.observe(total_s)
        self._validation.observe(validation_s)
        self._queue.observe(usage.queued_s)
        self._inference.observe(usage.decode_s)
        self._per_token.observe(usage.decode_s / max(1, generated))
        self._input.observe(usage.prompt_tokens)
        self._generated.observe(generated)
        self._allowed.observe(allowed)
        self._skipped.observe(max(0, generated - usage.steps))
        self._first_token.observe(first_token_s)
        self._per_forward.observe(generated / max(1, usage.steps))
        self._wasted.inc(usage.wasted_tokens + usage.generated_tokens - generated)

    def stepped(self, trace: StepTrace) -> None:
        """A step; one that computes prompt counts as ``prefill``, as TGI's dashboards understand it."""
        decision, seconds = trace.decision, trace.observed_s
        method = "prefill" if decision.prefill else "decode"
        self._batches.add(method)
        self._batch_successes.add(method)
        self._batch_size.observe(len(trace.rows))
        self._batch_duration.labels(method).observe(seconds)
        self._forward.labels(method).observe(seconds)
        self._step.observe(seconds)
        self._predicted.inc(decision.predicted_s)
        self._decisions.labels(decision.reason).inc()
        if decision.rows:
            self._chunk.observe(decision.chunk)
            self._committed.observe(trace.committed)

    def committed_first(self, seconds: float) -> None:
        """A request's first commit, so long after its prompt was valid."""
        self._first_commit.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def _bare(self, name: str, text: str, label: str = "") -> "_Bare":
        collector = _Bare(name, text, label)
        self._registry.register(collector)
        return collector

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(name, text, buckets=tuple(buckets), registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self._registry)


class _Bare(Collector):
    """A counter whose samples have its own name, with one label at most."""

    def __init__(self, name: str, text: str, label: str) -> None:
        self._name, self._text, self._label = name, text, label
        self._values: dict[str, float] = {} if label else {"": 0}

    def add(self, value: str = "") -> None:
        self._values[value] = self._values.get(value, 0) + 1

    def collect(self) -> Iterator[Metric]:
        metric = Metric(self._name, self._text, "untyped")
        for value, count in tuple(self._values.items()):
            metric.add_sample(self._name, {self._label: value} if self._label else {}, count)
        yield metric


def _doublings(last: int) -> list[float]:
    return [float(2**k) for k in range(last.bit_length())]


def _steps(last: int) -> list[float]:
    """TGI's 100 equal steps; fewer if they would not be whole numbers."""
    size = math.ceil(last / 100)
    return [float(size * k) for k in range(1, math.ceil(last / size) + 1)]


def _cause(error: OptimusError) -> str:
    match error:
        case Overloaded():
            return "overloaded"
        case TemplateFailed():
            return "template"
        case InvalidRequest():
            return "validation"
    return "generation"
