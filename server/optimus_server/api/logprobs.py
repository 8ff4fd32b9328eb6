"""Log-probabilities as TGI and OpenAI write them.

A token's log-probability is the one it had in the step that committed it, after penalties and at the request's
temperature: diffusion may commit a token before the one on its left, so it is no probability given all of the prefix.
"""

from collections.abc import Sequence
from typing import Any

from optimus_server.engine.request import Top
from optimus_server.text.answer import Answer, Token
from optimus_server.text.tokenizer import Tokenizer


def tgi_token(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.special}


def tgi_top(top: Top, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return [
        {"id": i, "text": tokenizer.token_text(i), "logprob": logprob, "special": i in tokenizer.special_ids}
        for i, logprob in top
    ]


def told(answer: Answer) -> list[Token]:
    """The tokens of a complete answer's text: no special ones, none of a stop string that was cut off."""
    tokens = [token for token in answer.tokens if not token.special]
    while answer.reason == "stop_sequence" and tokens and not tokens[-1].text:
        tokens.pop()
    return tokens


def chat_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """``logprobs`` of a choice of /v1/chat/completions; its tokens need no offset."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token_id)
        return {"token": tokenizer.token_text(token_id), "logprob": logprob, "bytes": list(raw)}

    content = [
        entry(token.id, token.logprob) | {"top_logprobs": [entry(*alternative) for alternative in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """``logprobs`` of a choice of /v1/completions.

    Args:
        offset: characters of the answer before these tokens.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    text = tokenizer.token_text
    return {
        "tokens": [text(token.id) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {text(i): logprob for i, logprob in (*token.top, (token.id, token.logprob))} for token in tokens
        ],
        "text_offset": offsets,
    }
