"""Packing: block borders, roles, and the chat template's own format."""

import json
from random import Random

import numpy as np
import pytest

from optimus_server.demo import MODELS
from optimus_server.demo.corpus import BLOCK, CONTEXT, MASKABLE, TARGET, Corpus, Layout, pack, shard, turns
from optimus_server.demo.tokenizer import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    RESERVED,
    SPECIAL,
    USER,
    VOCABULARY,
    save_tokenizer,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(0, 3000)


@pytest.fixture(scope="module")
def chat(trained, tmp_path_factory):
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(trained, directory, 2048)
    return AutoTokenizer.from_pretrained(directory)


def test_vocabulary(trained):
    assert trained.get_vocab_size() == VOCABULARY
    assert [trained.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert trained.encode("1024").tokens == ["1", "0", "2", "4"]


def test_any_text_round_trips(trained):
    rng = Random(0)
    text = "".join(chr(rng.randrange(1, 0xD7FF)) for _ in range(2000)) + "\U0001f600 Grüße\n\t  日本"
    assert trained.decode(trained.encode(text).ids) == text
    assert all(trained.token_to_id(symbol) is not None for symbol in _byte_symbols())


def _byte_symbols():
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def test_template_renders_what_is_trained(trained, chat):
    """A conversation through the template has the ids that packing gives unfilled turns."""
    pairs = [("Sort: 3, 1", "1, 3"), ("Thanks!", "You are welcome!"), ("Repeat: a\nb", "a\nb")]
    messages = [{"role": r, "content": c} for q, a in pairs for r, c in (("user", q), ("assistant", a))]
    rendered = chat.apply_chat_template(messages, tokenize=False)
    packed = []
    for question, answer in pairs:
        packed += [USER, *trained.encode(question).ids, ASSISTANT, *trained.encode(answer).ids, END]
    assert chat(rendered, add_special_tokens=False)["input_ids"] == packed

    asked = chat.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|user|>Sort: 3, 1<|assistant|>"
    system = [{"role": "system", "content": " Be brief. "}, messages[0]]
    assert chat.apply_chat_template(system, tokenize=False) == "<|user|>Be brief.\n\nSort: 3, 1"
    assert (chat.bos_token, chat.eos_token_id, chat.chat_template) == (None, END, CHAT_TEMPLATE)


def test_packing_rules(trained):
    """The example of the module's docstring in general: what follows an answer decides whether it may be masked."""
    filled = []
    for seed in range(60):
        rng = Random(seed)
        ids, roles = pack(turns(trained, rng, 512), 512, rng)
        assert ids[0] == USER
        assert not np.isin(ids, RESERVED).any()
        for start in np.flatnonzero(ids == ASSISTANT) + 1:
            later = np.flatnonzero(ids[start:] == USER)
            stop = start + later[0] if len(later) else len(ids)
            assert (roles[start:stop] != CONTEXT).all(), "answer and fill carry loss"
            if stop == len(ids):
                continue  # cut by the end of the sequence
            ends = int((ids[start:stop] == END).sum())
            filled.append(stop % BLOCK == 0)
            assert ends == 1 or stop % BLOCK == 0, "fill reaches exactly to a block border"
            assert ends <= BLOCK
            shared = np.arange(start, stop) >= stop // BLOCK * BLOCK
            assert (roles[start:stop][shared] == TARGET).all(), "a later question stands in this block"
            assert (roles[start:stop][~shared] == MASKABLE).all()
        for start in np.flatnonzero(ids == USER):
            stop = start + np.flatnonzero(np.append(ids[start:] == ASSISTANT, True))[0]
            assert (roles[start:stop] == CONTEXT).all(), "questions carry no loss"
    assert 0.65 < np.mean(filled) < 0.8


def test_shards_are_deterministic(trained, tmp_path):
    layout = Layout(tokens=1024, batches=(256, 512))
    trained.save(str(tmp_path / "tokenizer.json"))
    corpus = Corpus(tmp_path / "tokenizer.json", layout, seed=5, shards=2, processes=1)
    for number, (ids, roles) in enumerate(shard(trained, layout, 5, 1)):
        assert (ids == corpus.batch(2 + number)[0]).all()
        assert (roles == corpus.batch(6 + number)[1]).all(), "it starts again after the last shard"
    assert (corpus.batch(0)[0] != corpus.batch(2)[0]).any()


@pytest.mark.parametrize("name", ["demo", "demo-sdar"])
def test_the_shipped_tokenizer_is_the_recipes(name):
    directory = MODELS / name
    config = json.loads((directory / "tokenizer_config.json").read_text())
    assert config["chat_template"] == CHAT_TEMPLATE
    shipped = json.loads((directory / "tokenizer.json").read_text())
    assert len(shipped["model"]["vocab"]) == VOCABULARY
    assert shipped["model"]["vocab"] == json.loads(train_tokenizer(0).to_str())["model"]["vocab"]
