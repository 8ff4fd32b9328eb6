import numpy as np
import pytest

from optimus_server.engine.elastic.prompts import KINDS, PromptLoad


def fed(positions, pace=10.0, steps=400):
    load = PromptLoad()
    for step in range(steps):
        load.decided(pace)
        load.learn(positions[step % len(positions)])
    return load


def test_prompts_come_in_proportion_to_the_pace():
    load = fed([0, 60])
    assert load.at(np.array([5.0, 10.0, 40.0])) == pytest.approx([15, 30, 120], rel=0.05)


def test_bursts_are_as_uneven_as_prompts_came():
    assert (fed([7]).bursts == 1).all()
    bursts = fed([0, 0, 0, 128]).bursts
    assert len(bursts) == KINDS
    assert bursts.mean() == pytest.approx(1)
    assert sorted(set(bursts.tolist())) == [0, 4]


def test_without_prompts_there_are_none():
    for load in (PromptLoad(), fed([0])):
        assert (load.at(np.array([1.0, 100.0])) == 0).all()
        assert (load.bursts == 1).all()
