"""One request's denoising, replayed in a terminal: which positions were computed, which committed, what was sent."""

import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

from optimus_server.store.answers import Detail
from optimus_server.store.records import StepRecord

MASK, HIDDEN = "░", "▪"
SENT, HELD, FRESH, COMPUTED = "none", "yellow", "bold green", "cyan"
LEGEND = Text.assemble(
    ("committed now ", FRESH), ("held behind the frontier ", HELD), (f"{MASK} computed ", COMPUTED), f"{MASK} not yet"
)


def replay(
    detail: Detail, console: Console, *, speed: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Show the steps at their own pace.

    Args:
        speed: times as fast; 0 does not wait.
    """
    drawn = frames(detail)
    before = 0.0
    with Live(console=console, auto_refresh=False) as live:
        for step in detail.steps:
            if speed:
                sleep(max(0.0, step.t_ms - before) / 1e3 / speed)
                before = step.t_ms
            live.update(next(drawn), refresh=True)


def frames(detail: Detail) -> Iterator[Text]:
    """What each step shows."""
    first = next((step.frontier for step in detail.steps), 0)
    last = max((position + 1 for step in detail.steps for position in step.positions), default=first)
    words = texts(detail, last - first)
    committed: set[int] = set()
    for number, step in enumerate(detail.steps, start=1):
        committed |= set(step.positions)
        frontier = step.frontier + step.advance
        yield Text("\n").join(
            [_head(number, len(detail.steps), step), _canvas(words, first, step, committed, frontier), LEGEND]
        )


def _head(number: int, steps: int, step: StepRecord) -> Text:
    done = f"{len(step.positions)} of {step.masks} masks" if step.masks else "prefill"
    return Text(
        f"step {number}/{steps}  {step.t_ms:.0f} ms  chunk {step.chunk} ({step.reason})  {done}  "
        f"batch {step.batch}  queue {step.queue}  {step.step_ms:.1f} ms a step"
    )


def _canvas(words: list[str], first: int, step: StepRecord, committed: set[int], frontier: int) -> Text:
    text = Text()
    for position, word in enumerate(words, start=first):
        if position in step.positions:
            text.append(word, FRESH)
        elif position in committed:
            text.append(word, SENT if position < frontier else HELD)
        else:
            text.append(MASK, COMPUTED if step.start <= position < step.stop else "dim")
    return text


def texts(detail: Detail, count: int) -> list[str]:
    """The text of each position: the answer's, where it was kept, else a mark; past its end, what was never sent."""
    words, at = [], 0
    for characters in detail.pieces[:count] if detail.output else []:
        words.append((detail.output or "")[at : at + characters].replace("\n", "⏎\n"))
        at += characters
    return [word or HIDDEN for word in words] + [HIDDEN] * (count - len(words))
