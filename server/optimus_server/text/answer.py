"""The answer to one prompt, as far as its events have told it."""

import time
from collections.abc import Sequence
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
        tokens: all so far, in order.
        stopped: a stop string is complete: no event will add a token, and the engine may cancel the request.
        reason, usage: of the end; None before.
        first_token_s: seconds from the answer's creation to its first token.
    """

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer) -> None:
        self.prompt = prompt
        self.tokens: list[Token] = []
        self.reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.first_token_s = 0.0
        self._special_ids = tokenizer.special_ids
        self._detokenizer = Detokenizer(tokenizer)
        self._stop = StopBuffer(prompt.stop, include=prompt.include_stop)
        self._created = time.perf_counter()

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    def feed(self, events: Sequence[Event]) -> list[Token]:
        """The tokens these events add. The last event of an answer completes the text of its last token.

        Raises:
            GenerationFailed: the engine gave up.
        """
        before = len(self.tokens)
        for event in events:
            match event:
                case Committed(ids, logprobs, _, top):
                    for i, (token_id, logprob) in enumerate(zip(ids, logprobs, strict=True)):
                        self._add(token_id, logprob, top[i] if top else ())
                case Finished(reason, usage):
                    self.usage = usage
                    self.reason = "stop_sequence" if self.stopped else reason
                case Failed(message):
                    raise GenerationFailed(message)
        if self.reason and self.tokens:
            rest = self._stop.push(self._detokenizer.flush()) + self._stop.flush()
            if rest:
                before = min(before, len(self.tokens) - 1)
                self.tokens[-1] = self.tokens[-1]._replace(text=self.tokens[-1].text + rest)
        return self.tokens[before:]

    def _add(self, token_id: int, logprob: float, top: Top) -> None:
        if self.stopped:
            return
        if not self.tokens:
            self.first_token_s = time.perf_counter() - self._created
        special = token_id in self._special_ids
        text = "" if special else self._stop.push(self._detokenizer.push(token_id))
        self.tokens.append(Token(token_id, text, logprob, special, top))
