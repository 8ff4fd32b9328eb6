"""What a client asks for, in TGI's words, and what it is checked against."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimus_server.text.tokenizer import Message

MAX_TEMPERATURE = 100.0
MAX_TOP_K = 2**31 - 1

MESSAGE = 32
"""Characters that take about as long to encode as it takes to render an empty message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample when an OpenAI request says nothing: the checkpoint's generation_config.json, as in vLLM,
    else OpenAI's own temperature of 1."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def load(cls, path: str | Path) -> "Sampling":
        """From a model directory. What the file leaves out or says badly keeps OpenAI's default."""
        try:
            config = json.loads((Path(path) / "generation_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return cls()
        if not isinstance(config, dict) or config.get("do_sample") is False:
            return cls(temperature=0.0) if isinstance(config, dict) else cls()

        def number(name: str, low: float, high: float, default: float) -> float:
            value = config.get(name)
            return float(value) if isinstance(value, int | float) and low <= value <= high else default

        return cls(
            temperature=number("temperature", 0, MAX_TEMPERATURE, 1.0),
            top_p=number("top_p", 1e-6, 1.0, 1.0),
            top_k=int(number("top_k", 0, MAX_TOP_K, 0)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What requests are checked against and what they get by default; fixed once the model is loaded."""

    block_size: int
    vocab_size: int
    max_input_tokens: int
    max_total_tokens: int
    max_stop_sequences: int = 4
    ignore_unsupported: bool = False
    max_best_of: int = 2
    max_choices: int = 4
    max_top_n_tokens: int = 5
    stop_ids: frozenset[int] = frozenset()
    policy: str = "chunk"
    chunk: int | None = None
    threshold: float = 0.9
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request in TGI's words, whichever route it came by; None means it was not said.

    Attributes:
        inputs: a whole prompt, a chat, or ids.
        openai: the OpenAI routes' defaults hold, and a stop string is not part of the answer.
        n: answers to one prompt (OpenAI); ``best_of`` of them are decoded if that is more.
        diffusion: the request's diffusion extension: types checked, ranges not.
        traced: steps are told in the stream.
        refused: parameters that cannot be honoured -> the value that would be accepted.
        names: what the route calls a parameter, where that differs from TGI's name.
    """

    inputs: str | tuple[int, ...] | tuple[Message, ...]
    openai: bool = False
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    seed: int | None = None
    best_of: int | None = None
    n: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    typical_p: float | None = None
    top_n_tokens: int | None = None
    diffusion: Mapping[str, Any] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    traced: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        """How long the inputs are. A message or an id counts too, by what it costs to encode."""
        if isinstance(self.inputs, str):
            return len(self.inputs)
        return sum(1 if isinstance(part, int) else MESSAGE + sum(map(len, part.values())) for part in self.inputs)
