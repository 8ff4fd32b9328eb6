"""The kernels' codes are those of the engine, which they cannot import."""

from optimus_kernels import slots
from optimus_server.engine.batch import fields_of
from optimus_server.engine.policy import next_row
from optimus_server.engine.request import POLICIES, UNMASK_RULES, Params, Request
from optimus_server.engine.step import Turn


def test_policies_and_rules_have_the_engines_order():
    codes = slots.WHOLE_BLOCK, slots.IN_BLOCK, slots.REFRESH, slots.STALE, slots.STREAM
    assert [POLICIES[code] for code in codes] == ["block", "chunk", "refresh", "stale", "stream"]
    codes = slots.DYNAMIC, slots.STATIC, slots.SEQUENTIAL, slots.ENTROPY
    assert [UNMASK_RULES[code].split("_")[-1] for code in codes] == ["dynamic", "static", "sequential", "bounded"]


def test_every_field_of_a_turn_stands_where_the_kernels_look():
    params = Params(max_new_tokens=40, policy="stale", unmask="sequential", transfer=3)
    request = Request("r", (1,) * 21, params, block_size=8, shift=1)
    request.grant(5)
    values = fields_of(Turn(next_row(request, 8), 6, 5, None, prompt=True, fresh=True))
    expected = {
        slots.SLOT: 6, slots.CHUNK: 5, slots.ELASTIC: 1, slots.CUT: 8, slots.KNOWN: 21, slots.END: 61,
        slots.CANVAS: 64, slots.POLICY: slots.STALE, slots.RULE: slots.SEQUENTIAL, slots.TRANSFER: 3,
    }  # fmt: skip
    assert dict(enumerate(values)) == expected
