"""Settings against a checkpoint: what fits, what is refused, and what the engine gets."""

import pytest

from optimus_server.backend import build_backend
from optimus_server.errors import ModelError, SettingsError
from optimus_server.settings import Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_total_tokens": 1025}, "`max_total_tokens` must be <= 1024, what checkpoint and KV pool can hold."),
        ({"max_input_tokens": 1024}, "`max_input_tokens` must be < `max_total_tokens`. Given: 1024 and 1024"),
        ({"chunk": 17}, "`chunk` must be <= 16, twice the block size. Given: 17"),
        ({"chunk_ladder": "4,17"}, "`chunk_ladder` must be from 1 to 16 for this model. Given: 4,17"),
        ({"max_batch_prefill_tokens": 7}, "`max_batch_prefill_tokens` must be >= the block size. Given: 7 and 8"),
        ({"kv_pages": 1, "page_size": 4}, "the KV pool is smaller than one block of 8"),
        ({"kv_pages": 2**40}, "the KV pool needs"),
        ({"device": "quantum"}, "--device quantum"),
        ({"device": "cuda:99"}, "--device cuda:99"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_checkpoint(model_dir, settings, message):
    with pytest.raises(SettingsError) as caught:
        build_backend(Settings(model_id=str(model_dir), **settings))
    assert caught.value.message.startswith(message)


def test_a_directory_that_is_no_model(tmp_path):
    with pytest.raises(ModelError):
        build_backend(Settings(model_id=str(tmp_path)))


def test_rules_follow_settings_and_checkpoint(model_dir):
    backend = build_backend(
        Settings(model_id=str(model_dir), max_total_tokens=500, chunk=4, threshold=0.5, kv_pages=20, page_size=32)
    )
    rules = backend.prompter.rules
    assert (rules.max_total_tokens, rules.max_input_tokens) == (500, 499)
    assert (rules.chunk, rules.threshold, rules.block_size) == (4, 0.5, 8)
    assert backend.facts.kv_tokens == 640
    assert not backend.host.engine.busy


def test_the_controller_chooses_from_the_ladder(model_dir):
    engine = build_backend(Settings(model_id=str(model_dir), chunk_ladder="2,6", kv_pages=20)).host.engine
    assert engine.controller.yields.rungs == (2, 6)
    assert build_backend(Settings(model_id=str(model_dir), kv_pages=20)).host.engine.controller.yields.rungs[-1] == 16
