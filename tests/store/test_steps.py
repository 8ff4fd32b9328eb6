"""The blob gives back what went in, to the precision it promises."""

import json
import zlib

import pytest
from hypothesis import given, strategies as st

from optimus_server.store.records import StepRecord
from optimus_server.store.steps import decode, encode
from tests.store.samples import trace


@st.composite
def steps(draw):
    start, width, masks = draw(st.integers(0, 10**6)), draw(st.integers(1, 64)), draw(st.integers(0, 64))
    positions = sorted(start + offset for offset in draw(st.sets(st.integers(0, width), max_size=masks)))
    return StepRecord(
        t_ms=round(draw(st.floats(0, 10**7)), 1), start=start, stop=start + width, chunk=draw(st.integers(1, 64)),
        frontier=start + draw(st.integers(0, width)), masks=masks, advance=draw(st.integers(0, width)),
        positions=tuple(positions), percents=tuple(draw(st.integers(0, 100)) for _ in positions),
        batch=draw(st.integers(1, 512)), queue=draw(st.integers(0, 10**5)),
        step_ms=round(draw(st.floats(0, 10**5)), 2), reason=draw(st.sampled_from(["hold", "load_up", "slo"])),
    )  # fmt: skip


@given(st.lists(steps(), max_size=30))
def test_what_is_decoded_is_what_was_encoded(found):
    assert decode(1, encode(found)) == found


def test_the_blob_can_be_read_without_this_code():
    columns = json.loads(zlib.decompress(encode(trace(start=7, chunk=4))))
    assert columns["start"] == [0, 7, 9, 11]
    assert columns["width"] == [7, 4, 4, 4]
    assert columns["committed"] == [0, 2, 2, 2]
    assert columns["at"] == [0, 1] * 3
    assert columns["sure"] == [99, 50] * 3
    assert [columns["reasons"][index] for index in columns["reason"]] == ["idle", "hold", "hold", "hold"]


def test_a_request_of_sixty_steps_takes_some_hundred_bytes():
    many = [
        StepRecord(
            12.3 * i + i % 7, 3 * i, 3 * i + 16, 16, 3 * i + 1, 15, 3, (3 * i + 1, 3 * i + 2, 3 * i + 5),
            (99, 100, 50 + i % 50), 8, 0, 12 + i * 37 % 11 / 10, "hold",
        )
        for i in range(60)
    ]  # fmt: skip
    assert len(encode(many)) < 700


def test_a_version_from_the_future_is_refused():
    with pytest.raises(ValueError, match="version 2"):
        decode(2, b"")
