from collections import Counter
from itertools import islice

from optimus_server.bench.asked import Asked, evenly, in_the_middle
from optimus_server.bench.workload import Workload
from optimus_server.demo import MODELS
from optimus_server.text.tokenizer import Tokenizer


def test_every_stretch_of_questions_asks_for_nearly_the_same_mix():
    tokenizer = Tokenizer.load(MODELS / "demo")
    drawn = [Asked.of(one, tokenizer) for one in islice(Workload().questions(tokenizer), 400)]
    ordered = evenly(drawn)
    assert sorted(map(id, ordered)) == sorted(map(id, drawn))

    def tokens(asked):
        return [sum(len(one.answer) for one in asked[i : i + 100]) for i in range(0, 400, 100)]

    assert max(tokens(ordered)) < 1.15 * min(tokens(ordered))
    assert max(tokens(drawn)) > 1.3 * min(tokens(drawn))


def test_a_loop_is_met_at_random_points_of_long_and_short_answers():
    tokenizer = Tokenizer.load(MODELS / "demo")
    asked = [Asked.of(one, tokenizer) for one in islice(Workload().questions(tokenizer), 2)]
    short = Asked(asked[0].question, (1,), (7,) * 10)
    long = Asked(asked[1].question, (2,), (8,) * 30)
    found = in_the_middle([short, long], 4000)
    assert Counter(one.prompt for one in found) == {(1,): 1000, (2,): 3000}
    told = sorted(one.told for one in found if one.prompt == (2,))
    assert (told[0], told[-1]) == (0, 29)
    assert 14 < sum(told) / len(told) < 15
    for one in found:
        assert one.ids == one.prompt + one.answer[: one.told]
