"""What a client asks for -> a valid Prompt. Every 4xx about content ends here.

The order of the checks and their texts are TGI's. Three deviations: ``temperature`` 0 is greedy and ``top_p`` 1
is off, as OpenAI's clients send them; ``max_new_tokens`` must fit as it is given, since Optimus does not generate
in slices of 1024; and what diffusion decoding cannot honour is refused by name instead of ignored.
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optimus_server.engine.request import POLICIES, UNMASK_RULES, Params
from optimus_server.errors import InvalidRequest
from optimus_server.text.ask import MAX_TEMPERATURE, MAX_TOP_K, Ask, Rules, Sampling
from optimus_server.text.tokenizer import Tokenizer

MIN_TEMPERATURE = 1e-5
"""Below it sampling is greedy: dividing float32 logits by less would overflow."""

MAX_REPETITION_PENALTY = 100.0
"""And its inverse: what is beyond would overflow float32 logits."""

MAX_SEED = 2**64 - 1
MAX_STOP_CHARS = 1024
MAX_TOP_LOGPROBS = 20
"""OpenAI's limit of ``top_logprobs``."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request the engine can run.

    Attributes:
        text: the prompt as it was written, or as the chat template made it; before ``truncate``.
        include_stop: whether a matched stop string is part of the answer.
        seed: as told to the client; None when greedy and not given.
    """

    ids: tuple[int, ...]
    params: Params
    text: str
    stop: tuple[str, ...]
    include_stop: bool
    seed: int | None
    traced: bool = False
    """Whether its reader wants to hear of every step."""
    ignored: tuple[str, ...] = ()
    """Parameters that were dropped because they cannot be honoured."""
    choices: int = 1
    """Answers to decode, each from a seed of its own: ``n`` or ``best_of``."""

    def choice(self, i: int) -> "Prompt":
        """The prompt of one of its choices; the first has the seed as it was given."""
        seed = (self.params.seed + i) % (MAX_SEED + 1)
        return replace(self, params=replace(self.params, seed=seed), seed=None if self.seed is None else seed)


class Prompter:
    """Checks and encodes requests; holds no state, so any thread may call it."""

    def __init__(self, tokenizer: Tokenizer, rules: Rules) -> None:
        self.tokenizer = tokenizer
        self.rules = rules

    def prompt(self, ask: Ask) -> Prompt:
        """The valid prompt of a request.

        Raises:
            InvalidRequest: naming the parameter, the limit and the value.
        """
        temperature, top_k, top_p = self._sampling(ask)
        self._check(ask)
        diffusion = self._diffusion(ask)
        ids, text = self._encode(ask)
        seed = ask.seed
        if seed is None and temperature:
            # 53 bits: the seed is echoed in JSON, and JavaScript must be able to send it back.
            seed = secrets.randbits(53)
        params = Params(
            max_new_tokens=self._length(ask, len(ids)),
            stop_ids=self.rules.stop_ids,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            typical_p=ask.typical_p or 1.0,
            repetition_penalty=ask.repetition_penalty or 1.0,
            frequency_penalty=ask.frequency_penalty or 0.0,
            presence_penalty=ask.presence_penalty or 0.0,
            seed=seed or 0,
            top_n=ask.top_n_tokens or 0,
            **diffusion,
        )
        choices = max(ask.n or 1, ask.best_of or 1)
        return Prompt(ids, params, text, ask.stop, not ask.openai, seed, ask.traced, tuple(ask.refused), choices)

    def _sampling(self, ask: Ask) -> tuple[float, int, float]:
        """Temperature (0 is greedy), top-k and top-p (0 and 1 are off)."""
        temperature, top_k, top_p = ask.temperature, ask.top_k, ask.top_p
        asked = (temperature, top_k, ask.typical_p, None if top_p == 1 else top_p)
        sampling = ask.openai or ask.do_sample or any(value is not None for value in asked)
        _require(
            sampling or ask.best_of is None or ask.best_of <= 1,
            "you must use sampling when `best_of` is > 1", "best_of",
        )  # fmt: skip
        if temperature is not None:
            _require(temperature >= 0, "`temperature` must be strictly positive", "temperature")
            _require(
                temperature <= MAX_TEMPERATURE,
                f"`temperature` must be <= {MAX_TEMPERATURE:g}. Given: {temperature:g}", "temperature",
            )  # fmt: skip
        penalty = 1.0 if ask.repetition_penalty is None else ask.repetition_penalty
        _require(penalty > 0, "`repetition_penalty` must be strictly positive", "repetition_penalty")
        _require(
            1 / MAX_REPETITION_PENALTY <= penalty <= MAX_REPETITION_PENALTY,
            f"`repetition_penalty` must be >= {1 / MAX_REPETITION_PENALTY:g} and <= {MAX_REPETITION_PENALTY:g}. "
            f"Given: {penalty:g}", "repetition_penalty",
        )  # fmt: skip
        for name in ("frequency_penalty", "presence_penalty"):
            _require(abs(getattr(ask, name) or 0) <= 2, f"`{name}` must be >= -2.0 and <= 2.0", name)
        _require(top_p is None or 0 < top_p <= 1, "`top_p` must be > 0.0 and < 1.0", "top_p")
        typical = ask.typical_p is None or 0 < ask.typical_p < 1
        _require(typical, "`typical_p` must be > 0.0 and < 1.0", "typical_p")
        _require(top_k is None or top_k > 0, "`top_k` must be strictly positive", "top_k")
        _require((top_k or 0) <= MAX_TOP_K, f"`top_k` must be <= {MAX_TOP_K}. Given: {top_k}", "top_k")
        defaults = self.rules.sampling if ask.openai else Sampling()
        if temperature is None:
            temperature = defaults.temperature if sampling else 0.0
        if temperature < MIN_TEMPERATURE:
            temperature = 0.0
        return (
            temperature,
            defaults.top_k if top_k is None else top_k,
            defaults.top_p if top_p is None else top_p,
        )

    def _check(self, ask: Ask) -> None:
        """The checks that need no tokenizer, after those on sampling."""
        name = ask.names.get("max_new_tokens", "max_new_tokens")
        _require(ask.max_new_tokens is None or ask.max_new_tokens > 0, f"`{name}` must be strictly positive", name)
        limit = self.rules.max_stop_sequences
        _require(
            len(ask.stop) <= limit,
            f"`stop` supports up to {limit} stop sequences. Given: {len(ask.stop)}",
            "stop",
        )
        for stop in ask.stop:
            _require(stop != "", "`stop` sequences cannot be empty", "stop")
            _require(
                len(stop) <= MAX_STOP_CHARS,
                f"`stop` sequences must have <= {MAX_STOP_CHARS} characters. Given: {len(stop)}", "stop",
            )  # fmt: skip
        several = (ask.best_of or 1) > 1 and not ask.openai
        _require(not several or ask.seed is None, "`seed` must not be set when `best_of` > 1", "best_of")
        _require(
            ask.seed is None or 0 <= ask.seed <= MAX_SEED,
            f"`seed` must be >= 0 and <= {MAX_SEED}. Given: {ask.seed}", "seed",
        )  # fmt: skip
        self._check_counts(ask)
        for parameter, accepted in ask.refused.items():
            _require(
                self.rules.ignore_unsupported,
                f"`{parameter}` is not supported by this server: leave it out or set it to {accepted}", parameter,
            )  # fmt: skip

    def _check_counts(self, ask: Ask) -> None:
        """How many answers and how many alternatives."""
        rules = self.rules
        for name, value, limit in (
            ("best_of", ask.best_of, rules.max_choices if ask.openai else rules.max_best_of),
            ("n", ask.n, rules.max_choices),
        ):
            given = 1 if value is None else value
            _require(0 < given <= limit, f"`{name}` must be > 0 and <= {limit}. Given: {given}", name)
        best_of = ask.n if ask.best_of is None else ask.best_of
        _require((best_of or 1) >= (ask.n or 1), "`best_of` must be >= `n`", "best_of")
        name = ask.names.get("top_n_tokens", "top_n_tokens")
        limit, top = MAX_TOP_LOGPROBS if ask.openai else rules.max_top_n_tokens, ask.top_n_tokens or 0
        _require(0 <= top <= limit, f"`{name}` must be >= 0 and <= {limit}. Given: {top}", name)

    def _encode(self, ask: Ask) -> tuple[tuple[int, ...], str]:
        name = ask.names.get("inputs", "inputs")
        _require(len(ask.inputs) > 0, f"`{name}` cannot be empty", name)
        inputs, vocab = ask.inputs, self.rules.vocab_size
        if isinstance(inputs, str):
            ids, text = self.tokenizer.encode(inputs), inputs
        elif isinstance(inputs[0], int):
            ids = tuple(i for i in inputs if isinstance(i, int))
            _require(all(0 <= i < vocab for i in ids), f"`{name}` ids must be >= 0 and < {vocab}", name)
            text = self.tokenizer.decode(ids)
        else:
            ids, text = self.tokenizer.encode_chat([m for m in inputs if not isinstance(m, int)])
        _require(len(ids) > 0, f"`{name}` cannot be empty", name)
        _require(max(ids) < vocab, f"`{name}` holds a token that the model lacks", name)
        if ask.truncate is not None:
            limit = self.rules.max_input_tokens
            _require(
                0 < ask.truncate <= limit,
                f"`truncate` must be strictly positive and less than {limit}. Given: {ask.truncate}",
                "truncate",
            )  # fmt: skip
            ids = ids[-ask.truncate :]
        return ids, text

    def _length(self, ask: Ask, prompt: int) -> int:
        """How many tokens to generate; all that fit if the request does not say."""
        inputs = ask.names.get("inputs", "inputs")
        length = ask.names.get("max_new_tokens", "max_new_tokens")
        total, limit = self.rules.max_total_tokens, self.rules.max_input_tokens
        wanted = ask.max_new_tokens or max(1, total - prompt)
        _require(
            prompt + wanted <= total,
            f"`{inputs}` tokens + `{length}` must be <= {total}. "
            f"Given: {prompt} `{inputs}` tokens and {wanted} `{length}`",
            length if ask.max_new_tokens else inputs,
        )  # fmt: skip
        _require(prompt <= limit, f"`{inputs}` must have less than {limit} tokens. Given: {prompt}", inputs)
        return wanted

    def _diffusion(self, ask: Ask) -> dict[str, Any]:
        """The decoding parameters: the request's where it has them, else the server's."""
        rules = self.rules
        given = {"chunk": rules.chunk and min(rules.chunk, 2 * rules.block_size), **ask.diffusion}
        if given["chunk"] == "auto":
            given["chunk"] = None
        both = "confidence" in given and "threshold" in given
        _require(not both, "`diffusion.confidence` and `diffusion.threshold` are one thing: give one", "diffusion")
        _in_range(given, "confidence", 0, 1)
        given.setdefault("threshold", given.pop("confidence", rules.threshold))
        longest = 2 * rules.block_size
        _in_range(given, "chunk", 1, longest)
        _in_range(given, "transfer", 1, rules.block_size)
        _in_range(given, "threshold", 0, 1)
        _in_range(given, "entropy_bound", 0, math.inf)
        for name, choices in (("policy", POLICIES), ("unmask", UNMASK_RULES)):
            _require(
                name not in given or given[name] in choices,
                f"`diffusion.{name}` must be one of {', '.join(choices)}. Given: {given.get(name)}",
                f"diffusion.{name}",
            )  # fmt: skip
        _in_range(given, "tpot_slo_ms", 1, 60_000)
        target = given.pop("tpot_slo_ms", None)
        return {"policy": rules.policy, "tpot_s": target and target / 1e3} | given


def _require(holds: bool, message: str, param: str) -> None:
    if not holds:
        raise InvalidRequest(message, param=param)


def _in_range(values: Mapping[str, Any], name: str, low: float, high: float) -> None:
    if (value := values.get(name)) is not None:
        limits = f">= {low}" + (f" and <= {high}" if high < math.inf else "")
        _require(low <= value <= high, f"`diffusion.{name}` must be {limits}. Given: {value}", f"diffusion.{name}")
