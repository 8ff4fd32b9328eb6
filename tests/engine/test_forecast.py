"""Room for rows that are not known, by simulating blocks that end at random."""

import numpy as np
import pytest

from optimus_server.engine.forecast import Forecast
from optimus_server.engine.request import Params, Request
from optimus_server.engine.step import Outlook, Row, Turn


def turn(width, outlook=None):
    request = Request("r", (1,) * 8, Params(max_new_tokens=200), block_size=32, shift=0)
    row = Row(request, 8, 8 + width, 8 + width)
    return Turn(row, 0, 8, outlook, False, False)


def flat(positions, kv_tokens):
    return np.ones_like(positions)


def steep(positions, kv_tokens):
    return positions


def test_what_is_known_has_exactly_its_room():
    turns = [turn(7), turn(5)]
    assert Forecast(steep).room(turns) == (12, 12)
    assert Forecast(steep).room([]) == (0, 0)


def test_where_room_costs_nothing_there_is_all_that_may_be_needed():
    turns = [turn(7), *(turn(30, Outlook(9, 4, 9, longest=20)) for _ in range(3))]
    assert Forecast(flat).room(turns) == (67, 67)


def test_room_for_one_row_at_least():
    turns = [turn(50, Outlook(5, 2, 30, longest=40))]
    positions, masks = Forecast(steep).room(turns)
    assert (positions, masks) == (40, 40)


@pytest.mark.parametrize("chance", [0.1, 0.7])
def test_the_mean_is_learned(chance):
    rng = np.random.default_rng(0)
    forecast = Forecast(steep)
    outlook = Outlook(6, 4, 30, longest=34)
    for _ in range(2000):
        forecast.saw(6, bool(rng.random() < chance))
    assert forecast.chance(6) == pytest.approx(chance, abs=0.05)
    assert forecast.chance(1) == 1
    assert forecast.chance(0) == 0
    turns = [turn(4, outlook) for _ in range(100)]
    mean = forecast.mean(turns)
    assert mean == pytest.approx(100 * (4 + 26 * chance), rel=0.2)
    # A fifth of the rows have ended, which nobody knew.
    for _ in range(200):
        forecast.learn(mean, [turn(0.8 * mean / 100, outlook) for _ in range(100)])
    assert forecast.room(turns)[0] == pytest.approx(0.8 * mean, rel=0.03)


def test_where_steps_are_padded_some_rows_wait_rather_than_all_pay_for_the_next_room():
    def stairs(dear):
        def seconds(positions, kv_tokens):
            return np.where(positions <= 64, 5.0, np.where(positions <= 128, dear, 20.0))

        return Forecast(seconds, (32, 64, 96, 128))

    turns = [turn(10), *(turn(1, Outlook(5, 1, 1, 1)) for _ in range(60))]
    for dear, room in ((6.5, 64), (5.3, 70), (5.09, 70)):
        # 70 rows for 64 places: a tenth of them wait, or a step takes longer. There are never more than 70.
        assert stairs(dear).room(turns) == (room, room)
    # What is known has its room, whatever it costs.
    assert stairs(100.0).room([turn(70), *turns[1:]])[0] >= 71


def test_one_of_few_rows_does_not_wait_for_little():
    def stairs(positions, kv_tokens):
        return np.where(positions <= 32, 5.0, 5.5)

    turns = [turn(17, Outlook(5, 17, 17, 17)) for _ in range(2)]
    assert Forecast(stairs, (16, 32, 48)).room(turns)[0] == 34
