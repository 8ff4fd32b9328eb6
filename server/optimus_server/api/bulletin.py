"""Which requests are running: told to whoever reads along when one begins, ends or is refused."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

Reader = Callable[[dict[str, Any]], None]


class Bulletin:
    """Touched by the event loop only.

    Attributes:
        prompts: running requests -> the length of their prompts.
    """

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self.prompts: dict[str, int] = {}

    @contextlib.contextmanager
    def read(self, reader: Reader) -> Iterator[None]:
        self._readers.append(reader)
        try:
            yield
        finally:
            self._readers.remove(reader)

    def began(self, request_id: str, *, path: str, prompt_tokens: int, max_new_tokens: int) -> None:
        self.prompts[request_id] = prompt_tokens
        self._tell(
            "request_start", request_id, path=path, prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens
        )  # fmt: skip

    def ended(self, request_id: str, *, outcome: str, generated_tokens: int, steps: int, ttft_ms: float | None) -> None:
        """How a request has ended.

        Args:
            outcome: the reason of the end, an error's code, or that the client left.
            ttft_ms: from its arrival to the first token; None if there was none.
        """
        self.prompts.pop(request_id, None)
        self._tell(
            "request_end", request_id, outcome=outcome, generated_tokens=generated_tokens, steps=steps, ttft_ms=ttft_ms
        )  # fmt: skip

    def refused(self, status: int) -> None:
        """A request was answered with an error before it began."""
        self._tell("request_refused", None, status=status)

    def _tell(self, kind: str, request_id: str | None, **fields: Any) -> None:
        if self._readers:
            event = {"type": kind, "v": 1, "request_id": request_id, "at": round(time.time(), 6)} | fields
            for reader in tuple(self._readers):
                reader(event)
