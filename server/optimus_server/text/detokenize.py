"""Ids to text, delta by delta: UTF-8 split over tokens, and stop strings split over deltas.

Work per token is constant (amortised): nothing is decoded twice. The concatenation of all deltas equals one
decode of all ids, whatever steps they came in.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from optimus_server.text.tokenizer import Tokenizer


class Detokenizer:
    """Turns the ids of one answer into text, in order: UTF-8 decoding with a memory, since tokens are bytes.

    Special tokens are not passed to it.

    Example: an emoji of four bytes in two tokens:

        >>> detokenizer.push(first), detokenizer.push(second)
        ('', '🙂')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        return self._utf8.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """What is left at the end; bytes that never became a character are U+FFFD, as in a full decode."""
        return self._utf8.decode(b"", final=True)


@dataclass(slots=True)
class _Matcher:
    """One stop string and how much of it the text ends with (Knuth, Morris, Pratt)."""

    stop: str
    fallback: list[int]
    matched: int = 0

    @classmethod
    def make(cls, stop: str) -> "_Matcher":
        fallback = [0] * len(stop)
        k = 0
        for i in range(1, len(stop)):
            while k and stop[i] != stop[k]:
                k = fallback[k - 1]
            k += stop[i] == stop[k]
            fallback[i] = k
        return cls(stop, fallback)

    def push(self, char: str) -> bool:
        while self.matched and char != self.stop[self.matched]:
            self.matched = self.fallback[self.matched - 1]
        self.matched += char == self.stop[self.matched]
        return self.matched == len(self.stop)


class StopBuffer:
    """Finds the stop string that is complete first, in text that comes in deltas.

    Args:
        stops: non-empty strings. include: the matched string belongs to the answer (TGI). Then text passes at
            once. Otherwise (OpenAI) the longest end of the text that may yet become a stop string is held
            back.

    Example, ``stops=("###",)`` and not included:

        "a#" -> "a"        "#" -> ""        "b" -> "##b"        "###c" -> "", stopped
    """

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        self._matchers = [_Matcher.make(stop) for stop in stops]
        self._include = include
        self._held = ""
        self.stopped = False

    def push(self, delta: str) -> str:
        """The text that may be sent now; what follows a stop string is dropped."""
        if self.stopped or not self._matchers:
            return "" if self.stopped else delta
        text = self._held + delta
        for i, char in enumerate(delta, start=len(self._held) + 1):
            complete = [matcher.stop for matcher in self._matchers if matcher.push(char)]
            if complete:
                self.stopped = True
                self._held = ""
                return text[:i] if self._include else text[: i - max(map(len, complete))]
        hold = 0 if self._include else max(matcher.matched for matcher in self._matchers)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """What was held back and turned out to be text."""
        held, self._held = self._held, ""
        return held
