import json

import numpy as np
import pytest
import torch

from optimus_server.engine import profile
from optimus_server.engine.elastic.latency import LatencyModel, Profile
from optimus_server.engine.runner import Runner
from optimus_server.models.loader import load_model
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="module", params=["sdar", "qwen3"])
def runner(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny_checkpoint(path, request.param, block_size=8)
    return Runner(load_model(path, dtype=torch.float32), pages=64, page_size=16)


def test_a_profile_is_one_of_this_device(runner):
    shares = []
    found = profile.measure(runner, max_positions=200, progress=shares.append)
    assert found.positions[0] == 1
    assert found.positions[-1] == 200
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert (np.diff(LatencyModel(found).predict_many(np.arange(1.0, 300), 0)) >= 0).all()


def test_where_steps_are_padded_the_rooms_are_timed(runner):
    runner.record(max_rows=8, max_positions=100)
    try:
        found = profile.measure(runner, max_positions=200)
        assert found.rooms == tuple(runner.graphs.positions)
        assert found.padded_to == 100
        assert found.positions[-1] == 200
        assert "rooms" in profile.key(runner)
    finally:
        runner.graphs = None


def test_what_takes_too_long_is_left_to_extrapolation(runner, monkeypatch):
    monkeypatch.setattr(profile, "SLOW_STEP_S", 0.0)
    assert profile.measure(runner, max_positions=200).positions == (1,)


def test_it_is_stored_for_the_same_model_on_the_same_device_only(runner, tmp_path, monkeypatch):
    kept = Profile((1, 2), (0.5, 0.6), 0.0)
    assert profile.load(tmp_path, runner) is None
    profile.save(tmp_path, runner, kept)
    assert profile.load(tmp_path, runner) == kept
    monkeypatch.setattr(profile, "__version__", "another")
    assert profile.load(tmp_path, runner) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", json.dumps({"key": None, "positions": [2, 1]})])
def test_a_damaged_file_is_measured_anew(runner, tmp_path, damage):
    profile.save(tmp_path, runner, Profile((1,), (0.5,), 0.0))
    (stored,) = (tmp_path / "profiles").iterdir()
    stored.write_text(damage)
    assert profile.load(tmp_path, runner) is None


def test_a_directory_that_cannot_be_written_is_no_reason_to_fail(runner, tmp_path, caplog):
    (tmp_path / "profiles").write_text("in the way")
    profile.save(tmp_path, runner, Profile((1,), (0.5,), 0.0))
    assert "not stored" in caplog.text
