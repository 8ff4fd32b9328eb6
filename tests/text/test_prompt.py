"""Every text of TGI's validation, the order of its checks, and the defaults."""

import dataclasses
import json

import pytest

from optimus_server.errors import InvalidRequest
from optimus_server.text.ask import Ask, Sampling
from optimus_server.text.prompt import Prompter
from tests.web import END, rules


@pytest.fixture
def prompter(tokenizer):
    return Prompter(tokenizer, rules())


def ask(inputs="hello", **fields):
    return Ask(inputs=inputs, **fields)


VALIDATION = [
    ({"best_of": 2}, "best_of", "you must use sampling when `best_of` is > 1"),
    ({"temperature": -0.1}, "temperature", "`temperature` must be strictly positive"),
    ({"temperature": 1e9}, "temperature", "`temperature` must be <= 100. Given: 1e+09"),
    ({"repetition_penalty": 0.0}, "repetition_penalty", "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "frequency_penalty", "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0.0}, "top_p", "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1.1}, "top_p", "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "typical_p", "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "top_k", "`top_k` must be strictly positive"),
    ({"top_k": 2**31}, "top_k", "`top_k` must be <= 2147483647. Given: 2147483648"),
    ({"max_new_tokens": 0}, "max_new_tokens", "`max_new_tokens` must be strictly positive"),
    ({"stop": tuple("abcde")}, "stop", "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"stop": ("",)}, "stop", "`stop` sequences cannot be empty"),
    ({"stop": ("x" * 1025,)}, "stop", "`stop` sequences must have <= 1024 characters. Given: 1025"),
    ({"best_of": 2, "do_sample": True, "seed": 1}, "best_of", "`seed` must not be set when `best_of` > 1"),
    ({"best_of": 3, "do_sample": True}, "best_of", "`best_of` must be > 0 and <= 2. Given: 3"),
    ({"best_of": 0}, "best_of", "`best_of` must be > 0 and <= 2. Given: 0"),
    ({"best_of": 2, "n": 3, "openai": True}, "best_of", "`best_of` must be >= `n`"),
    ({"n": 5, "openai": True}, "n", "`n` must be > 0 and <= 4. Given: 5"),
    ({"n": 0, "openai": True}, "n", "`n` must be > 0 and <= 4. Given: 0"),
    (
        {"repetition_penalty": 200.0},
        "repetition_penalty",
        "`repetition_penalty` must be >= 0.01 and <= 100. Given: 200",
    ),
    ({"presence_penalty": -2.5}, "presence_penalty", "`presence_penalty` must be >= -2.0 and <= 2.0"),
    ({"seed": -1}, "seed", f"`seed` must be >= 0 and <= {2**64 - 1}. Given: -1"),
    ({"seed": 2**64}, "seed", f"`seed` must be >= 0 and <= {2**64 - 1}. Given: {2**64}"),
    ({"top_n_tokens": 6}, "top_n_tokens", "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    (
        {"top_n_tokens": 21, "openai": True, "names": {"top_n_tokens": "top_logprobs"}},
        "top_logprobs",
        "`top_logprobs` must be >= 0 and <= 20. Given: 21",
    ),
    (
        {"refused": {"watermark": "false"}},
        "watermark",
        "`watermark` is not supported by this server: leave it out or set it to false",
    ),
    ({"inputs": ""}, "inputs", "`inputs` cannot be empty"),
    ({"inputs": ()}, "inputs", "`inputs` cannot be empty"),
    ({"inputs": (1, 320)}, "inputs", "`inputs` ids must be >= 0 and < 320"),
    ({"inputs": (-1,)}, "inputs", "`inputs` ids must be >= 0 and < 320"),
    ({"truncate": 0}, "truncate", "`truncate` must be strictly positive and less than 200. Given: 0"),
    ({"truncate": 201}, "truncate", "`truncate` must be strictly positive and less than 200. Given: 201"),
    (
        {"inputs": (9,) * 10, "max_new_tokens": 247},
        "max_new_tokens",
        "`inputs` tokens + `max_new_tokens` must be <= 256. Given: 10 `inputs` tokens and 247 `max_new_tokens`",
    ),
    (
        {"inputs": (9,) * 300},
        "inputs",
        "`inputs` tokens + `max_new_tokens` must be <= 256. Given: 300 `inputs` tokens and 1 `max_new_tokens`",
    ),
    ({"inputs": (9,) * 201}, "inputs", "`inputs` must have less than 200 tokens. Given: 201"),
    ({"diffusion": {"chunk": 0}}, "diffusion.chunk", "`diffusion.chunk` must be >= 1 and <= 16. Given: 0"),
    ({"diffusion": {"chunk": 17}}, "diffusion.chunk", "`diffusion.chunk` must be >= 1 and <= 16. Given: 17"),
    (
        {"diffusion": {"policy": "magic"}},
        "diffusion.policy",
        "`diffusion.policy` must be one of block, chunk, refresh, stale, stream. Given: magic",
    ),
    (
        {"diffusion": {"unmask": "x"}},
        "diffusion.unmask",
        "`diffusion.unmask` must be one of low_confidence_dynamic, low_confidence_static, sequential, "
        "entropy_bounded. Given: x",
    ),
    (
        {"diffusion": {"confidence": 1.5}},
        "diffusion.confidence",
        "`diffusion.confidence` must be >= 0 and <= 1. Given: 1.5",
    ),
    ({"diffusion": {"transfer": 9}}, "diffusion.transfer", "`diffusion.transfer` must be >= 1 and <= 8. Given: 9"),
    (
        {"diffusion": {"entropy_bound": -1.0}},
        "diffusion.entropy_bound",
        "`diffusion.entropy_bound` must be >= 0. Given: -1.0",
    ),
    (
        {"diffusion": {"confidence": 0.5, "threshold": 0.5}},
        "diffusion",
        "`diffusion.confidence` and `diffusion.threshold` are one thing: give one",
    ),
]


@pytest.mark.parametrize(("fields", "param", "message"), VALIDATION)
def test_validation_text(prompter, fields, param, message):
    with pytest.raises(InvalidRequest) as caught:
        prompter.prompt(ask(**fields))
    assert (caught.value.message, caught.value.param, caught.value.status) == (message, param, 422)
    assert caught.value.tgi() == {"error": f"Input validation error: {message}", "error_type": "validation"}


def test_checks_come_in_the_order_of_tgi(prompter):
    """Everything wrong at once: repairing the first complaint brings up the next one."""
    wrong = {
        "inputs": "", "best_of": 2, "temperature": -1.0, "repetition_penalty": -1.0, "frequency_penalty": 9.0,
        "top_p": 2.0, "typical_p": 2.0, "top_k": -1, "max_new_tokens": 0, "stop": tuple("abcde"), "seed": 1,
        "top_n_tokens": 9, "truncate": 0, "do_sample": True,
    }  # fmt: skip
    repaired = {
        "temperature": None, "repetition_penalty": None, "frequency_penalty": None, "top_p": None,
        "typical_p": None, "top_k": None, "max_new_tokens": 999, "stop": (), "best_of": None, "top_n_tokens": None,
        "inputs": "x " * 150, "truncate": 100,
    }  # fmt: skip
    for name, value in repaired.items():
        with pytest.raises(InvalidRequest) as caught:
            prompter.prompt(ask(**wrong))
        assert caught.value.param == name
        wrong[name] = value
    with pytest.raises(InvalidRequest, match=r"must be <= 256\. Given: 100"):
        prompter.prompt(ask(**wrong))
    wrong["max_new_tokens"] = 10
    assert len(prompter.prompt(ask(**wrong)).ids) == 100


def test_errors_use_the_words_of_the_route(prompter):
    names = {"inputs": "messages", "max_new_tokens": "max_tokens"}
    with pytest.raises(InvalidRequest) as caught:
        prompter.prompt(ask((9,) * 10, max_new_tokens=300, names=names))
    assert caught.value.param == "max_tokens"
    assert "10 `messages` tokens and 300 `max_tokens`" in caught.value.message
    with pytest.raises(InvalidRequest, match="`messages` cannot be empty"):
        prompter.prompt(ask((), names=names))


def test_defaults(prompter):
    prompt = prompter.prompt(ask("hello world"))
    params = prompt.params
    assert (params.policy, params.chunk, params.threshold) == ("chunk", None, 0.9)
    assert (params.temperature, params.top_k, params.top_p) == (0.0, 0, 1.0)
    assert params.max_new_tokens == 256 - len(prompt.ids)
    assert params.stop_ids == {END}
    assert prompt.seed is None
    assert prompt.include_stop


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.7}, 0.7),
        ({"temperature": 0.0, "top_k": 5}, 0.0),
        ({"temperature": 1e-9}, 0.0),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.5}, 1.0),
        ({"top_p": 1.0}, 0.0),
        ({"openai": True}, 1.0),
        ({"openai": True, "temperature": 0.0}, 0.0),
    ],
)
def test_what_asks_for_sampling(prompter, fields, expected):
    assert prompter.prompt(ask(**fields)).params.temperature == expected


def test_openai_requests_sample_as_the_checkpoint_says(tokenizer):
    checkpoint = Sampling(temperature=0.6, top_p=0.95, top_k=20)
    prompter = Prompter(tokenizer, rules(sampling=checkpoint))
    params = prompter.prompt(ask(openai=True)).params
    assert (params.temperature, params.top_p, params.top_k) == (0.6, 0.95, 20)
    params = prompter.prompt(ask(openai=True, temperature=1.5, top_p=1.0, top_k=3)).params
    assert (params.temperature, params.top_p, params.top_k) == (1.5, 1.0, 3)
    assert prompter.prompt(ask(do_sample=True)).params.temperature == 1.0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, Sampling()),
        ({"do_sample": False, "temperature": 0.6}, Sampling(temperature=0.0)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, Sampling(temperature=0.6, top_k=20)),
        ({"temperature": "hot", "top_p": 7}, Sampling()),
        ([], Sampling()),
    ],
)
def test_sampling_of_a_checkpoint(tmp_path, config, expected):
    if config is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert Sampling.load(tmp_path) == expected


def test_tokens_the_model_lacks_are_refused(tokenizer):
    """A tokenizer may have more tokens than the model it comes with."""
    prompter = Prompter(tokenizer, rules(vocab_size=50))
    with pytest.raises(InvalidRequest, match="a token that the model lacks"):
        prompter.prompt(ask("hello"))


def test_seeds(prompter):
    sampled = [prompter.prompt(ask(do_sample=True)) for _ in range(3)]
    assert len({prompt.seed for prompt in sampled}) == 3
    assert all(prompt.seed == prompt.params.seed < 2**53 for prompt in sampled)
    assert prompter.prompt(ask(do_sample=True, seed=7)).seed == 7
    assert prompter.prompt(ask(seed=2**64 - 1)).params.seed == 2**64 - 1


def test_choices_have_seeds_of_their_own(prompter):
    prompt = prompter.prompt(ask(do_sample=True, best_of=2))
    assert prompt.choices == 2
    first, second = (prompt.choice(i) for i in range(2))
    assert first == prompt
    assert first.seed == first.params.seed != second.seed == second.params.seed
    assert prompter.prompt(ask(openai=True, n=2, seed=2**64 - 1)).choice(1).seed == 0
    assert prompter.prompt(ask(openai=True, n=2, best_of=3)).choices == 3


def test_what_changes_the_choice_of_tokens_reaches_the_engine(prompter):
    given = {
        "typical_p": 0.5, "repetition_penalty": 1.2, "frequency_penalty": -0.5, "presence_penalty": 0.25,
        "top_n_tokens": 3,
    }  # fmt: skip
    params = prompter.prompt(ask(**given)).params
    assert (params.typical_p, params.repetition_penalty) == (0.5, 1.2)
    assert (params.frequency_penalty, params.presence_penalty, params.top_n) == (-0.5, 0.25, 3)
    assert params.penalised
    plain = prompter.prompt(ask()).params
    assert (plain.typical_p, plain.top_n, plain.penalised) == (1.0, 0, False)


def test_truncate_keeps_the_last_tokens(prompter, tokenizer):
    prompt = prompter.prompt(ask("the quick brown fox", truncate=2))
    assert prompt.ids == tokenizer.encode("the quick brown fox")[-2:]
    assert prompt.text == "the quick brown fox"


def test_a_request_may_fill_the_context_exactly(prompter):
    prompt = prompter.prompt(ask((9,) * 200, max_new_tokens=56))
    assert len(prompt.ids) + prompt.params.max_new_tokens == 256


def test_chats_and_ids(prompter, tokenizer):
    message = {"role": "user", "content": "hello"}
    prompt = prompter.prompt(ask((message,), openai=True))
    assert (prompt.ids, prompt.text) == tokenizer.encode_chat([message])
    assert not prompt.include_stop
    assert prompter.prompt(ask((9, 10))).ids == (9, 10)


def test_diffusion_options_reach_the_engine(prompter):
    given = {
        "policy": "stale", "chunk": 3, "confidence": 0.25, "unmask": "sequential", "transfer": 2, "entropy_bound": 0.1,
    }  # fmt: skip
    params = prompter.prompt(ask(diffusion=given)).params
    expected = given | {"threshold": given["confidence"]}
    del expected["confidence"]
    assert {name: getattr(params, name) for name in expected} == expected


def test_the_servers_chunk_is_cut_to_what_the_block_allows(tokenizer):
    prompter = Prompter(tokenizer, dataclasses.replace(rules(), block_size=1, chunk=16))
    assert prompter.prompt(ask()).params.chunk == 2


def test_a_request_may_leave_its_chunk_to_the_controller_whatever_the_server_says(tokenizer):
    prompter = Prompter(tokenizer, dataclasses.replace(rules(), chunk=4))
    assert prompter.prompt(ask()).params.chunk == 4
    assert prompter.prompt(ask(diffusion={"chunk": "auto"})).params.chunk is None
    assert prompter.prompt(ask(diffusion={"tpot_slo_ms": 50})).params.tpot_s == 0.05
