import numpy as np
import pytest

from optimus_server.engine.elastic.corrections import Corrections

RUNGS = 8
HARD, EASY = np.eye(2)


def show(corrections, rung, kind, commits, *, expected=4.0, useful=None, width=8.0, again=True, steps=400, rows=4):
    """So many rows of one rung and kind, step by step."""
    for _ in range(steps):
        corrections.observe(
            np.full(rows, rung),
            np.full(rows, again),
            np.tile(kind, (rows, 1)),
            (np.full(rows, commits), np.full(rows, commits if useful is None else useful)),
            np.full(rows, width),
            (np.full((rows, 2), expected), np.full((rows, 2), 8.0)),
        )


def factors(corrections):
    """Of commits, by group and rung, over those of rung 0."""
    found = corrections.factors[0]
    return found / found[:, :1]


def test_nothing_seen_is_no_correction():
    corrections = Corrections(RUNGS, np.eye(2))
    assert corrections.factors[0] == pytest.approx(np.ones((2, RUNGS)))
    assert corrections.factors[1] == pytest.approx(np.ones((2, RUNGS)))
    assert corrections.doubt == pytest.approx(np.full((2, RUNGS), corrections.doubt[0, 0]))


def test_what_a_rung_does_otherwise_is_learned_and_reaches_its_neighbors():
    corrections = Corrections(RUNGS, np.eye(2))
    for _ in range(100):
        show(corrections, 0, HARD, 4.0, steps=20)
        show(corrections, 3, HARD, 4.8, width=9.0, steps=2)
    hard, easy = factors(corrections)
    assert 1.12 < hard[3] < 1.2
    assert 1.02 < hard[4] < hard[3]
    assert hard[7] < hard[5] < hard[4]
    assert easy == pytest.approx(np.ones(RUNGS), abs=0.02)
    assert corrections.factors[1][0, 3] == pytest.approx(9 / 8, abs=0.04)


def test_what_is_wrong_for_all_rungs_is_no_reason_to_change():
    """Requests that are not known yet commit less than expected wherever they are."""
    corrections = Corrections(RUNGS, np.eye(2))
    show(corrections, 5, HARD, 3.0, steps=2000)
    hard, _ = corrections.factors[0]
    assert hard[5] == pytest.approx(0.75, abs=0.02)
    assert hard / hard[5] == pytest.approx(np.ones(RUNGS), abs=0.05)


def test_doubt_goes_with_what_is_seen_and_comes_back_in_time():
    corrections = Corrections(RUNGS, np.eye(2))
    before = corrections.doubt
    show(corrections, 3, HARD, 4.0)
    seen = corrections.doubt
    assert seen[0, 3] < before[0, 3] / 2
    assert seen[0, 3] < seen[0, 4] < seen[0, 7] < before[0, 7]
    assert seen[1] == pytest.approx(before[1])
    show(corrections, 0, HARD, 4.0, steps=20_000, rows=1)
    assert seen[0, 3] < corrections.doubt[0, 3] < before[0, 3]


def test_rows_that_come_from_another_chunk_size_teach_nothing():
    corrections = Corrections(RUNGS, np.eye(2))
    show(corrections, 3, HARD, 40.0, again=False)
    assert corrections.factors[0] == pytest.approx(np.ones((2, RUNGS)))


def test_what_is_learned_at_one_rung_does_not_change_what_another_is_known_to_do():
    """A batch that decodes at one chunk size for long, of which too much was expected, is no reason to think less of
    the one before."""
    corrections = Corrections(RUNGS, np.eye(2))
    show(corrections, 1, HARD, 4.0, steps=1000)
    show(corrections, 3, HARD, 3.6, steps=1000)
    hard, _ = corrections.factors[0]
    assert hard[1] == pytest.approx(1, abs=0.01)
    assert hard[3] == pytest.approx(0.9, abs=0.01)


def test_tokens_behind_the_end_count_against_the_rung_that_committed_them():
    corrections = Corrections(RUNGS, np.eye(2))
    for _ in range(50):
        show(corrections, 1, EASY, 4.0, steps=8)
        show(corrections, 6, EASY, 4.0, useful=2.0, steps=8)
    _, easy = factors(corrections)
    assert easy[6] / easy[1] < 0.6


def test_more_waste_than_yield_stays_within_bounds():
    corrections = Corrections(RUNGS, np.eye(2))
    show(corrections, 3, EASY, 4.0, useful=-30.0)
    assert (corrections.factors[0] > 0).all()


def test_a_ladder_of_one_rung():
    corrections = Corrections(1, np.eye(2))
    show(corrections, 0, HARD, 4.0)
    assert corrections.factors[0].shape == corrections.doubt.shape == (2, 1)
