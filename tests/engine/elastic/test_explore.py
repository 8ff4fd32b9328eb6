import numpy as np

from optimus_server.engine.elastic.explore import EXPLORE, EXPLORED, Explorer
from optimus_server.engine.elastic.levels import PRICES
from optimus_server.engine.elastic.yields import YieldModel
from optimus_server.engine.request import Params, Request

BLOCK, COUNT = 32, 400


def free(more):
    return np.zeros_like(more)


def dear(more):
    return np.where(more > 0, 10.0, 0.0)


class Scene:
    """Requests of which all that is known is what is likely, at the level that takes chunk 8."""

    def __init__(self):
        self.yields = YieldModel(BLOCK, 1)
        self.explorer = Explorer(self.yields, BLOCK)
        self.rows = [
            Request(str(i), (1,) * 40, Params(max_new_tokens=900), block_size=BLOCK, shift=1) for i in range(COUNT)
        ]
        commits, computed = self.yields.table("chunk")
        kinds = self.yields.kinds(np.array([self.yields.slot(row.id) for row in self.rows]))
        self.speed, self.computed = kinds @ np.log(commits), kinds @ computed
        self.known = self.yields.rungs.index(8)
        # All levels but one take the extremes of the ladder, which are bad.
        self.rung = np.zeros((len(PRICES), COUNT), dtype=int)
        self.rung[12] = self.known
        self.rate = np.full(len(PRICES), 0.5)
        self.rate[12] = 1.0

    def explore(self, longer=free):
        chosen = np.full(COUNT, self.known)
        self.explorer.explore(self.rows, chosen, self.rung, self.rate, self.speed, self.computed, longer)
        return chosen


def test_some_rows_try_something_else_for_a_whole_stretch():
    scene = Scene()
    first = scene.explore()
    tried = first != scene.known
    assert 0 < tried.mean() < 1 / EXPLORE + 0.05
    for _ in range(3):
        assert (scene.explore() == first).all()
    for row in scene.rows:
        row.frontier += EXPLORED * BLOCK
    assert (scene.explore() != first).any()


def test_what_costs_the_others_much_is_not_tried():
    scene = Scene()
    assert (scene.explore() > scene.known).any()
    assert not (scene.explore(dear) > scene.known).any()


def test_what_is_certain_is_not_tried():
    scene = Scene()
    scene.yields.doubt = lambda slots: np.zeros((len(slots), len(scene.yields.rungs)))
    best = (scene.speed - PRICES[12] * scene.computed).argmax(1)
    scene.rung[12] = scene.known = best[0]
    assert (best == best[0]).all()
    assert (scene.explore() == best[0]).all()


def test_another_level_is_tried_where_luck_may_make_it_the_best():
    """Stairs: this level takes chunk 8, one that is nearly as good takes chunk 2; what lies between is bad."""
    scene = Scene()
    two = scene.yields.rungs.index(2)
    scene.rung[20], scene.rate[20] = two, 0.99
    scene.rate[[level for level in range(len(PRICES)) if level not in (12, 20)]] = 0.3
    scene.speed[:] = np.log(0.01)
    scene.speed[:, [two, scene.known]] = np.log([2.0, 2.05])
    tries = scene.explore()
    assert set(tries) == {two, scene.known}
    assert 0 < (tries == two).mean() < 1 / EXPLORE + 0.05
