import pytest

from optimus_server.demo.evaluate import Cell, evaluate, evaluate_cell, grid
from optimus_server.demo.tasks import held_out
from optimus_server.engine.request import POLICIES
from optimus_server.errors import InvalidRequest
from optimus_server.models.config import load_config
from optimus_server.models.loader import load_model
from optimus_server.text.tokenizer import Tokenizer
from tests.tiny import tiny_checkpoint


def cells(path, **wanted):
    return [str(cell) for cell in grid(load_config(path), **wanted)]


def test_the_default_table_is_what_the_checkpoint_can_do(tmp_path):
    shifted = tiny_checkpoint(tmp_path / "a", "sdar_shift", block_size=4)
    plain = tiny_checkpoint(tmp_path / "b", "sdar", block_size=4)
    assert cells(shifted) == ["block", *(f"chunk {size}" for size in (1, 2, 3, 4, 6, 8))]
    sizes = (2, 3, 4, 6, 8)
    assert cells(plain) == ["block", *(f"chunk {size}" for size in sizes), *(f"refresh {size}" for size in sizes)]
    assert cells(tiny_checkpoint(tmp_path / "c", "qwen3")) == ["chunk 1"]


def test_policies_chunks_and_concurrency_are_multiplied(tmp_path):
    path = tiny_checkpoint(tmp_path, "sdar_shift", block_size=4)
    assert cells(path, chunks=[2, 4]) == ["chunk 2", "chunk 4"]
    assert cells(path, policies=["block", "stale"], chunks=[2, 4]) == ["block", "stale 2", "stale 4"]
    assert [cell.concurrency for cell in grid(load_config(path), ["block"], [], [1, 64])] == [1, 64]


@pytest.mark.parametrize("policy", POLICIES)
def test_concurrency_changes_nothing(model_dir, policy):
    loaded, tokenizer = load_model(model_dir), Tokenizer.load(model_dir)
    questions = held_out(5)
    alone, together = (
        evaluate_cell(loaded, tokenizer, Cell(policy, 4, rows), questions, max_new=12) for rows in (1, 5)
    )
    assert alone.outcomes == together.outcomes
    assert alone.wrong == together.wrong


def test_cells_in_processes_give_the_same(model_dir):
    wanted = [Cell("chunk", 4), Cell("block", 8)]
    questions = held_out(3)
    here = list(evaluate(model_dir, wanted, questions, max_new=8))
    there = list(evaluate(model_dir, wanted, questions, max_new=8, jobs=2))
    assert [result.cell for result in there] == wanted
    assert [result.outcomes for result in here] == [result.outcomes for result in there]


def test_a_prompt_that_does_not_fit_is_named(tmp_path, model_dir):
    loaded, tokenizer = load_model(model_dir), Tokenizer.load(model_dir)

    class Long:
        task, scored, answer, inputs = "t", False, "", "hello " * 2000

    with pytest.raises(InvalidRequest, match=r"prompt 2 has .* must fit 1024 positions"):
        evaluate_cell(loaded, tokenizer, Cell("chunk", 4), [held_out(1)[0], Long()], 8)
