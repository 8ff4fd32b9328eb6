"""Deltas of text: nothing lost, nothing doubled, nothing shown that may still change."""

import time

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer as Backend, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from optimus_server.text.detokenize import Detokenizer, StopBuffer
from optimus_server.text.tokenizer import Tokenizer
from tests.web import small_tokenizer

TOKENIZER = Tokenizer(small_tokenizer())


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(6, 319), max_size=60))
def test_deltas_of_random_ids_are_one_decode(ids):
    stream = Detokenizer(TOKENIZER)
    assert "".join([*map(stream.push, ids), stream.flush()]) == TOKENIZER.decode(ids)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_valid_text_never_shows_a_replacement_character(text):
    stream = Detokenizer(TOKENIZER)
    deltas = [stream.push(i) for i in TOKENIZER.encode(text.replace("<|", ""))]
    assert stream.flush() == ""
    assert "".join(deltas) == text.replace("<|", "")
    assert "".join(deltas).count("\ufffd") == text.count("\ufffd")


def test_an_emoji_appears_whole():
    stream = Detokenizer(TOKENIZER)
    ids = TOKENIZER.encode("😎")
    assert len(ids) > 1
    assert [stream.push(i) for i in ids] == [""] * (len(ids) - 1) + ["😎"]


def test_an_unfinished_character_is_replaced_at_the_end_only():
    stream = Detokenizer(TOKENIZER)
    first = TOKENIZER.encode("😎")[0]
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"


def test_time_per_token_is_constant():
    def seconds(n: int) -> float:
        stream = Detokenizer(TOKENIZER)
        buffer = StopBuffer(["aaaaaaab", "never"], include=False)
        ids = TOKENIZER.encode("a")
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            for _ in range(n):
                buffer.push(stream.push(ids[0]))
            best = min(best, time.perf_counter() - began)
        return best / n

    assert seconds(40_000) < 5 * seconds(2_000)


def stopped(deltas, stops, include):
    buffer = StopBuffer(stops, include=include)
    return "".join([*map(buffer.push, deltas), buffer.flush()]), buffer.stopped


def first_stop(text, stops, include):
    """The slow definition: the stop string that is complete first, the longest of those."""
    ends = [i for i in range(1, len(text) + 1) if any(text[:i].endswith(stop) for stop in stops)]
    if not ends:
        return text, False
    end = ends[0]
    longest = max(len(stop) for stop in stops if text[:end].endswith(stop))
    return text[: end if include else end - longest], True


@settings(max_examples=500, deadline=None)
@given(
    deltas=st.lists(st.text("ab", max_size=4), max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    include=st.booleans(),
)
def test_stop_strings_are_found_whatever_the_deltas(deltas, stops, include):
    assert stopped(deltas, stops, include) == first_stop("".join(deltas), stops, include)


@settings(max_examples=300, deadline=None)
@given(
    deltas=st.lists(st.text("ab", max_size=3), max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_what_was_sent_never_turns_out_to_be_a_stop_string(deltas, stops):
    buffer, sent = StopBuffer(stops, include=False), ""
    final, _ = stopped(deltas, stops, False)
    for delta in deltas:
        sent += buffer.push(delta)
        assert final.startswith(sent)


@pytest.mark.parametrize(("include", "expected"), [(True, ["a#", "#", "b", "###"]), (False, ["a", "", "##b", ""])])
def test_text_is_held_back_only_if_it_may_have_to_go(include, expected):
    buffer = StopBuffer(["###"], include=include)
    assert [buffer.push(delta) for delta in ["a#", "#", "b", "###c"]] == expected
    assert buffer.stopped
    assert buffer.push("more") == ""


WORDS = ["hello", "world,", "the", "quick", "brown", "fox", "doesn't", "jump", "lazy", "dog.", "你好", "naïve"]


def sentencepiece(form):
    """BPE with byte fallback as in Llama 2 (``llama``), or Unigram with Metaspace as in T5 (``t5``)."""
    if form == "llama":
        vocab = [f"<0x{byte:02X}>" for byte in range(256)]
        chars = sorted({char for word in WORDS for char in word if char.isascii()} | {"\u2581"})
        merges = [("\u2581", "h"), ("\u2581", "t"), ("h", "e"), ("\u2581", "w"), ("o", "r"), ("l", "d")]
        tokens = ["<unk>", *vocab, *chars, *(a + b for a, b in merges)]
        model = models.BPE(
            vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token="<unk>", byte_fallback=True
        )
        backend = Backend(model)
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        backend.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        backend = Backend(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
        backend.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


def wordpiece():
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend))


OTHERS = {"llama": sentencepiece("llama"), "t5": sentencepiece("t5"), "wordpiece": wordpiece()}


@pytest.mark.parametrize("kind", OTHERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_deltas_of_other_tokenizers_continue_the_prompt(kind, data):
    """Prompt and deltas together are one decode of prompt and answer, wherever the answer begins."""
    tokenizer = OTHERS[kind]
    words = data.draw(st.lists(st.sampled_from(WORDS), min_size=2, max_size=12))
    ids = tokenizer.encode(" ".join(words))
    cut = data.draw(st.integers(1, len(ids)))
    while cut > 1 and b"\xef\xbf\xbd" in tokenizer.decode(ids[:cut]).encode():
        cut -= 1
    stream = Detokenizer(tokenizer)
    deltas = [stream.push(token_id) for token_id in ids[cut:]]
    assert tokenizer.decode(ids[:cut]) + "".join([*deltas, stream.flush()]) == tokenizer.decode(ids)


def test_bytes_of_a_fallback_wait_for_their_character():
    tokenizer = OTHERS["llama"]
    ids = tokenizer.encode("a 🙂!")
    stream = Detokenizer(tokenizer)
    deltas = [stream.push(token_id) for token_id in ids]
    assert "".join(deltas).strip() == "a 🙂!"
    assert "🙂" in deltas
    assert "\ufffd" not in "".join(deltas)
    assert len(ids) >= 7


def test_word_pieces_join_and_punctuation_closes_up():
    tokenizer = OTHERS["wordpiece"]
    stream = Detokenizer(tokenizer)
    ids = tokenizer.encode("the lazy dog. hello")
    assert "".join(map(stream.push, ids)) == " the lazy dog. hello"
