"""A checkpoint's tokenizer: text and chats to ids, ids to bytes.

Whoever writes a whole prompt (``inputs``, ``prompt``) may write special tokens into it, as with TGI: that is
how clients apply a chat template of their own. Whoever writes one message of a chat may not: special-token
text inside a message is encoded as the characters it consists of, so that no user can end his turn and begin
the system's.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from optimus_server.errors import InvalidRequest, ModelError, TemplateFailed

Message = Mapping[str, Any]


class Tokenizer:
    """Wraps a fast Hugging Face tokenizer: byte-level, SentencePiece-style with or without byte fallback, or WordPiece.

    In all of them a token stands for certain bytes, whatever its neighbors are. Only the first of a text may lose its
    space when it is decoded; an answer continues its prompt, so it keeps it.

    Args:
        hf: a ``PreTrainedTokenizerFast`` or another class of transformers with a ``tokenizers`` backend.

    Raises:
        ModelError: a tokenizer of another kind, in which a token could change the text of those before it.
    """

    def __init__(self, hf: Any) -> None:
        if not hasattr(hf, "backend_tokenizer"):
            raise ModelError("only fast tokenizers (tokenizer.json) are supported", param="model")
        self._hf = hf
        self.backend: tokenizers.Tokenizer = hf.backend_tokenizer
        kinds = _decoders(json.loads(self.backend.to_str())["decoder"])
        self._byte_level, self._byte_fallback = kinds == ["ByteLevel"], "ByteFallback" in kinds
        if not kinds or not (self._byte_level or set(kinds) <= _FREE_OF_CONTEXT):
            raise ModelError("only byte-level, SentencePiece and WordPiece tokenizers are supported", param="model")
        # Settings saved in tokenizer.json must not cut or pad what we send.
        self.backend.no_truncation()
        self.backend.no_padding()
        added = self.backend.get_added_tokens_decoder()
        self._specials = {token.content: i for i, token in added.items() if token.special}
        self.special_ids = frozenset(self._specials.values())
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in a model directory.

        Raises:
            ModelError: there is none, or it has no fast implementation.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
        from transformers.utils import logging

        # The file is complete; AutoTokenizer would also load config.json, and warn about what it finds there.
        complete = (Path(path) / "tokenizer.json").exists()
        kind: Any = PreTrainedTokenizerFast if complete else AutoTokenizer

        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        try:
            hf = kind.from_pretrained(str(path), local_files_only=True)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{path} has no usable tokenizer: {reason}", param="model") from error
        finally:
            logging.set_verbosity(verbosity)
        return cls(hf)

    @property
    def has_chat_template(self) -> bool:
        return self._hf.chat_template is not None

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a whole prompt: special tokens are recognised, and those it must begin with are added."""
        return self._encode(self.backend, text, add_special_tokens=True)

    def encode_chat(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], str]:
        """Ids and text of a chat, ready for the assistant to answer.

        Messages without special-token text get exactly the ids of ``apply_chat_template``. In others that
        text is put aside before the template runs, and encoded plainly where it belongs afterwards.

        Raises:
            TemplateFailed: there is no template, or it refused the messages.
        """
        # Digits survive whatever a template does to case; a nonce, so that no user can guess the placeholder.
        nonce = secrets.randbits(64)
        aside: list[str] = []

        def put_aside(match: re.Match[str]) -> str:
            aside.append(match[0])
            return f"\uf8ff{nonce}:{len(aside) - 1}\uf8ff"

        safe = [
            {
                key: self._special_text.sub(put_aside, value) if isinstance(value, str) else value
                for key, value in message.items()
            }
            for message in messages
        ]
        rendered = self._render(safe)
        # A pattern that is new each time costs more than all else here, and most chats need none.
        parts = re.split(f"\uf8ff{nonce}:([0-9]+)\uf8ff", rendered) if aside else [rendered]
        ids: list[int] = []
        text = ""
        for i, part in enumerate(parts):
            literal = i % 2 == 1
            piece = aside[int(part)] if literal else part
            backend = self._plain if literal else self.backend
            ids += self._encode(backend, piece, add_special_tokens=False)
            text += piece
        return tuple(ids), text

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Each token of a whole prompt: id, and the characters ``[start, stop)`` of the text it stands for."""
        encoding = self.backend.encode_batch([text], add_special_tokens=True)[0]
        return [(i, *offsets) for i, offsets in zip(encoding.ids, encoding.offsets, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a complete answer, without special tokens."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; none for ids the tokenizer does not have."""
        if (known := self._bytes.get(token_id)) is None:
            token = self.backend.id_to_token(token_id) or ""
            known = self._bytes[token_id] = self._bytes_of(token)
        return known

    def _bytes_of(self, token: str) -> bytes:
        if self._byte_level:
            known = all(char in _BYTE_OF for char in token)
            return bytes(_BYTE_OF[char] for char in token) if known else token.encode()
        if token in self._specials:
            return token.encode()
        if self._byte_fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        # Behind another token, since the first of a text may be special.
        text: str = self.backend.decoder.decode(["a", token])
        return text.removeprefix("a").encode()

    def token_text(self, token_id: int) -> str:
        """One token alone, for people to read: what is no whole character shows as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """A twin that takes special-token text for ordinary characters."""
        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _special_text(self) -> re.Pattern[str]:
        by_length = sorted(self._specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, by_length)) or "(?!)")

    def _render(self, messages: Sequence[Message]) -> str:
        if not self.has_chat_template:
            raise TemplateFailed("this model has no chat template; send the whole prompt to /v1/completions")
        try:
            return str(self._hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:
            # A template is a program of the checkpoint's that may fail on these messages in any way.
            raise TemplateFailed(str(error) or type(error).__name__, param="messages") from error

    @staticmethod
    def _encode(backend: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        try:
            # Of the encoders only the batched ones release the interpreter lock (2 MB of text take 0.4 s).
            encoding = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        except Exception as error:
            raise InvalidRequest(f"tokenizer error {error}") from error
        return tuple(encoding.ids)


def _decoders(decoder: dict[str, Any] | None) -> list[str]:
    """The kinds of decoder a tokenizer applies, one after the other; a strip counts only if it may touch the end."""
    if decoder is None:
        return []
    parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return [part["type"] for part in parts if part["type"] != "Strip" or part["stop"]]


_FREE_OF_CONTEXT = {"Replace", "ByteFallback", "Fuse", "Metaspace", "WordPiece"}
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 is itself, the rest is U+0100 and up."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
