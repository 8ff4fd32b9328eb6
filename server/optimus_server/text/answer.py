"""The answer to one prompt, as far as its events have told it."""

import time
from array import array
from collections.abc import Sequence
from io import StringIO
from itertools import accumulate
from typing import NamedTuple

from optimus_server.engine.request import Committed, Event, Failed, Finished, FinishReason, Top, Usage
from optimus_server.errors import GenerationFailed
from optimus_server.text.detokenize import Detokenizer, StopBuffer
from optimus_server.text.prompt import Prompt
from optimus_server.text.tokenizer import Tokenizer


class Token(NamedTuple):
    """One token of the answer. (A tuple, since one is made for every token of every stream.)

    Attributes:
        text: what this token adds to the text: empty for special tokens and while a character or a possible
            stop string is incomplete. The texts of all tokens are the text of the answer.
        logprob: log-probability at the step that committed it, after penalties, at the request's temperature.
        top: the best tokens of that step and position, if they were asked for.
    """

    id: int
    text: str
    logprob: float
    special: bool
    top: Top = ()


class Answer:
    """Turns events into tokens, and ends at a stop string, which the engine knows nothing of.

    Attributes:
        stopped: a stop string is complete: no event will add a token, and the engine may cancel the request.
        reason, usage: of the end; None before.
        first_token_s: seconds from the answer's creation to its first token.
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self.prompt = prompt
        self.reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.first_token_s = 0.0
        # The tokens as columns, which the garbage collector does not look into: a list of them it would walk again and
        # again, 0.1 s at a time with 256 streams of 2,000 tokens.
        self._ids = array("q")
        self._logprobs = array("d")
        self._lengths = array("q")
        self._text = StringIO()
        self._tops: list[Top] = []
        self._special_ids = tokenizer.special_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopBuffer(prompt.stop, include=prompt.include_stop)
        self._created = time.perf_counter()

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self._ids)

    @property
    def tokens(self) -> list[Token]:
        """All so far, in order."""
        text, ends = self.text, accumulate(self._lengths)
        tops = self._tops or [()] * len(self)
        rows = zip(self._ids, self._lengths, ends, self._logprobs, tops, strict=True)
        return [
            Token(token_id, text[end - length : end], logprob, token_id in self._special_ids, top)
            for token_id, length, end, logprob, top in rows
        ]

    @property
    def pieces(self) -> tuple[int, ...]:
        """How many characters each token has added."""
        return tuple(self._lengths)

    @property
    def mean_logprob(self) -> float:
        """Over all tokens; 0 without any."""
        return sum(self._logprobs) / max(1, len(self))

    @property
    def text(self) -> str:
        return self._text.getvalue()

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    def feed(self, events: Sequence[Event]) -> list[Token]:
        """The tokens these events add. The last event of an answer completes the text of its last token.

        Raises:
            GenerationFailed: the engine gave up.
        """
        found: list[Token] = []
        for event in events:
            match event:
                case Committed(ids, logprobs, _, top):
                    for i, (token_id, logprob) in enumerate(zip(ids, logprobs, strict=True)):
                        if not self._stop.stopped:
                            found.append(self._add(token_id, logprob, top[i] if top else ()))
                case Finished(reason, usage):
                    self.usage = usage
                    self.reason = "stop_sequence" if self.stopped else reason
                case Failed(message):
                    raise GenerationFailed(message)
        if self.reason and self._ids:
            rest = self._stop.push(self._detokenizer.flush()) + self._stop.flush()
            if rest:
                self._text.write(rest)
                self._lengths[-1] += len(rest)
                # Of a token that was told before only what it lacked is told.
                last = found.pop() if found else self.tokens[-1]._replace(text="")
                found.append(last._replace(text=last.text + rest))
        return found

    def _add(self, token_id: int, logprob: float, top: Top) -> Token:
        if not self._ids:
            self.first_token_s = time.perf_counter() - self._created
        special = token_id in self._special_ids
        text = "" if special else self._stop.push(self._detokenizer.push(token_id))
        self._ids.append(token_id)
        self._logprobs.append(logprob)
        self._lengths.append(len(text))
        self._text.write(text)
        if top:
            self._tops.append(top)
        return Token(token_id, text, logprob, special, top)
