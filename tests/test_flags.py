"""One declaration per setting: flags, variables, ranges, contradictions, and the table in README.md."""

import argparse
import re
from pathlib import Path

import pytest

from optimus_server import flags
from optimus_server.errors import SettingsError
from optimus_server.settings import Settings


def from_line(*line, environ=None):
    parser = argparse.ArgumentParser()
    flags.add_arguments(parser)
    return flags.load(vars(parser.parse_args(line)), environ or {})


def test_defaults_are_valid_and_documented():
    chosen, warnings = from_line()
    assert chosen == Settings()
    assert not warnings
    assert (chosen.hostname, chosen.port, chosen.max_concurrent_requests) == ("127.0.0.1", 3000, 128)
    assert all(field.description for field in Settings.model_fields.values())


def test_every_setting_has_its_flag_and_its_variable():
    values = {
        "model_id": "m", "hostname": "::1", "port": 81, "device": "cpu", "dtype": "float16", "block_size": 4,
        "mask_token_id": 7, "policy": "stale", "chunk": 5, "threshold": 0.5, "max_concurrent_requests": 3,
        "max_queue_tokens": 77, "ignore_unsupported_parameters": True, "request_timeout": 1.5,
        "max_stop_sequences": 2, "max_best_of": 3, "max_client_batch_size": 5,
        "max_top_n_tokens": 7, "max_input_tokens": 10, "max_total_tokens": 20, "max_batch_prefill_tokens": 30,
        "max_batch_total_tokens": 40, "max_batch_size": 6, "page_size": 16, "no_prefix_cache": True,
        "payload_limit": 99, "api_key": "k", "cors_allow_origin": "a,b", "graceful_termination_timeout": 1,
        "json_output": True, "compute_type": "x", "kv_pages": 9, "threads": 2, "tpot_slo_ms": 50.0, "no_profile": True,
        "no_playground": True, "engine_in": "process",
        "playground_load": True,
        "log_db": "x.db", "log_text": "truncate:5", "log_retention_days": 3, "log_max_mb": 9, "db_migrate": "check",
        "admin_token": "long enough", "chunk_ladder": "4,8,16",
    }  # fmt: skip
    assert set(values) == set(Settings.model_fields)
    for name, value in values.items():
        line = [flags.flag(name)] + ([] if value is True else [str(value)])
        assert getattr(from_line(*line)[0], name) == value
        environ = {flags.variable(name): str(value)}
        assert getattr(from_line(environ=environ)[0], name) == value


def test_flags_win_over_variables():
    assert from_line("--port", "1", environ={"PORT": "2"})[0].port == 1
    assert from_line("-p", "3")[0].port == 3
    assert from_line("--max-input-length", "5")[0].max_input_tokens == 5
    assert from_line(environ={"PORT": ""})[0].port == 3000


def test_names_of_tgi_are_bare_and_ours_are_prefixed():
    assert flags.variable("max_total_tokens") == "MAX_TOTAL_TOKENS"
    assert flags.variable("device") == "OPTIMUS_DEVICE"


def test_dockers_hostname_is_not_an_address_to_listen_on():
    assert from_line(environ={"HOSTNAME": "3f2a9c1b77de"})[0].hostname == "127.0.0.1"
    assert from_line(environ={"HOSTNAME": "0.0.0.0"})[0].hostname == "0.0.0.0"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (["--port", "x"], ["--port", "integer", "Given: x"]),
        (["--port", "65536"], ["--port", "65535", "Given: 65536"]),
        (["--chunk", "0"], ["--chunk", "1"]),
        (["--chunk-ladder", "8,4"], ["--chunk-ladder", "ascending chunk sizes", "Given: 8,4"]),
        (["--chunk-ladder", "4,,8"], ["--chunk-ladder", "ascending chunk sizes"]),
        (["--chunk-ladder", "0,8"], ["--chunk-ladder", "from 1"]),
        (["--policy", "magic"], ["--policy", "'stream'"]),
        (["--threshold", "1.5"], ["--threshold", "1"]),
        (["--threshold", "nan"], ["--threshold"]),
        (["--max-concurrent-requests", "-1"], ["--max-concurrent-requests", "1"]),
        (
            ["--max-input-tokens", "10", "--max-total-tokens", "10"],
            ["`max_input_tokens` must be < `max_total_tokens`", "10 and 10"],
        ),
        (
            ["--max-total-tokens", "100", "--max-batch-total-tokens", "50"],
            ["`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 100 and 50"],
        ),
        (["--max-total-tokens", "100", "--kv-pages", "2"], ["Given: 100 and 64"]),
        (["--kv-pages", "2", "--max-batch-total-tokens", "64"], ["kv_pages", "give one"]),
    ],
)
def test_what_is_refused_is_named(line, parts):
    with pytest.raises(SettingsError) as caught:
        from_line(*line)
    assert all(part in caught.value.message for part in parts)


def test_a_refused_secret_is_not_repeated():
    with pytest.raises(SettingsError, match=r"^--admin-token .*at least 8 characters.*Given: a secret$"):
        from_line("--admin-token", "tooshrt")


def test_a_bad_variable_is_named_as_such():
    with pytest.raises(SettingsError, match=r"^MAX_BATCH_SIZE must be .*Given: many"):
        from_line(environ={"MAX_BATCH_SIZE": "many"})


def test_flags_of_tgi_without_meaning_are_accepted_with_a_warning():
    _, warnings = from_line("--num-shard", "2", "--trust-remote-code", environ={"QUANTIZE": "awq", "CUDA_GRAPHS": "0"})
    assert len(warnings) == 4
    assert warnings[0] == "--num-shard means nothing to this server and is ignored"
    assert any(warning.startswith("QUANTIZE ") for warning in warnings)


def test_the_table_in_the_readme():
    text = Path("README.md").read_text()
    table = text.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
    assert table == flags.markdown_table(), (
        "run: python -c 'from optimus_server import flags; print(flags.markdown_table())'"
    )


def test_nothing_else_reads_the_environment():
    files = [
        path for path in Path("server/optimus_server").rglob("*.py") if path.name not in ("settings.py", "flags.py")
    ]
    assert not [path for path in files if re.search(r"environ\b(?!\[.*\] = )|getenv", path.read_text())]


@pytest.mark.parametrize("value", ["all", "truncate", "truncate:", "truncate:0", "truncate:-1", "full "])
def test_log_text_says_what_it_takes(value):
    with pytest.raises(SettingsError, match=r"--log-text must be none, hash, full or truncate:N .* Given: "):
        from_line("--log-text", value)
