import numpy as np

from optimus_server.engine.elastic.levels import PRICES, rungs_by_level


def rows(count, seed=0):
    """Rows that are worth more at larger rungs, less and less so: mean log of commits and positions."""
    rng = np.random.default_rng(seed)
    computed = np.array([1.0, 2, 4, 8, 16]) * np.ones((count, 1))
    return np.log1p(rng.uniform(0.2, 2, (count, 1)) * np.log2(computed + 1)), computed


def test_the_dearer_a_position_the_smaller_the_chunks():
    speed, computed = rows(20)
    rung = rungs_by_level(speed, computed)
    assert rung.shape == (len(PRICES), 20)
    assert (np.diff(rung, axis=0) <= 0).all()
    for price, line in zip(PRICES, rung, strict=True):
        assert (line == (speed - price * computed).argmax(1)).all()


def test_of_equals_the_larger_chunk():
    assert (rungs_by_level(np.ones((1, 3)), np.array([[1.0, 1.0, 2.0]])) == 1).all()
