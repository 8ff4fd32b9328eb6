"""What is kept of every request that reached the engine: a line of log, metrics, and word to whoever reads along."""

import logging
import time
from dataclasses import dataclass, field

from optimus_server.api.bulletin import Bulletin
from optimus_server.api.metrics import Metrics
from optimus_server.engine.telemetry import Decision, StepTrace
from optimus_server.errors import OptimusError
from optimus_server.text.answer import Answer
from optimus_server.text.prompt import Prompt

logger = logging.getLogger(__name__)

LEFT = "client left"
"""The outcome of a request whose client did not wait for the end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request; times are ``time.perf_counter``'s.

    Attributes:
        answer: grows while the request runs.
        arrived, valid: when its first byte was here, and when its prompt was known to be valid.
    """

    id: str
    path: str
    prompt: Prompt
    answer: Answer
    arrived: float
    valid: float


@dataclass(slots=True)
class Tally:
    """All steps so far: how many, how long they took in seconds, the tokens by which frontiers moved; and the last."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    decision: Decision | None = None

    def add(self, trace: StepTrace) -> None:
        self.steps += 1
        self.seconds += trace.observed_s
        self.tokens += sum(row.advance for row in trace.rows)
        self.decision = trace.decision


@dataclass(frozen=True, slots=True)
class Ledger:
    metrics: Metrics
    bulletin: Bulletin
    tally: Tally = field(default_factory=Tally)
    _uncommitted: dict[str, float] = field(default_factory=dict)

    def began(self, entry: Entry) -> None:
        self.metrics.began()
        self._uncommitted[entry.id] = entry.valid
        prompt = entry.prompt
        self.bulletin.began(
            entry.id, path=entry.path, prompt_tokens=len(prompt.ids), max_new_tokens=prompt.params.max_new_tokens
        )

    def refused(self, error: OptimusError) -> None:
        """A request that never reached the engine."""
        self.metrics.refused(error)
        self.bulletin.refused(error.status)

    def stepped(self, trace: StepTrace) -> None:
        """A step of the engine."""
        self.metrics.stepped(trace)
        self.tally.add(trace)
        if self._uncommitted:
            for row in trace.rows:
                if row.commits and (valid := self._uncommitted.pop(row.request_id, None)) is not None:
                    self.metrics.committed_first(time.perf_counter() - valid)

    def ended(self, entry: Entry, outcome: str) -> None:
        """``outcome`` is the reason of the end, an error's code, or ``LEFT``."""
        self._uncommitted.pop(entry.id, None)
        answer, usage = entry.answer, entry.answer.usage
        total, generated = time.perf_counter() - entry.arrived, len(answer)
        steps = usage.steps if usage else 0
        logger.info(
            "POST %s: %s, %d prompt tokens, %d tokens in %.2f s, %d steps [%s]", entry.path, outcome,
            len(entry.prompt.ids), generated, total, steps, entry.id,
        )  # fmt: skip
        first = entry.valid - entry.arrived + answer.first_token_s
        self.bulletin.ended(
            entry.id, outcome=outcome, generated_tokens=generated, steps=steps,
            ttft_ms=round(first * 1e3, 3) if generated else None,
        )  # fmt: skip
        if usage and outcome == answer.reason:
            self.metrics.answered(
                usage,
                generated=generated,
                allowed=entry.prompt.params.max_new_tokens,
                total_s=total,
                validation_s=entry.valid - entry.arrived,
                first_token_s=answer.first_token_s,
            )
        else:
            self.metrics.ended("dropped" if outcome == LEFT else "generation")
