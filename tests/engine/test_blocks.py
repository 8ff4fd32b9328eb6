import numpy as np
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from optimus_server.engine.blocks import BlockPool


def tokens(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_second_request_shares_what_the_first_published():
    pool = BlockPool(8, page_size=2, block_size=4)
    prompt = np.arange(10)
    first = pool.open(prompt)
    assert first.table == []
    assert pool.grow(first, 10)
    pool.publish(first, prompt, exact=9)  # units of 4: [0, 4) and [4, 8)
    second = pool.open(prompt)
    assert second.table == first.table[:4]
    other = pool.open(tokens(0, 1, 2, 3, 9, 9, 9, 9))
    assert other.table == first.table[:2]
    pool.check([first, second, other])


def test_pages_that_are_no_multiple_of_the_block_share_whole_blocks_only():
    pool = BlockPool(8, page_size=6, block_size=4)
    assert pool.unit == 12
    lease = pool.open(np.arange(11))
    assert pool.grow(lease, 11)
    pool.publish(lease, np.arange(11), exact=8)
    assert pool.open(np.arange(11)).table == []


def test_same_tokens_after_another_beginning_are_not_shared():
    pool = BlockPool(8, page_size=2, block_size=2)
    lease = pool.open(tokens(1, 2, 7, 7))
    assert pool.grow(lease, 4)
    pool.publish(lease, tokens(1, 2, 7, 7), exact=4)
    assert pool.open(tokens(7, 7)).table == []
    assert len(pool.open(tokens(1, 2, 7, 7, 7)).table) == 2


def test_a_duplicate_gives_its_pages_back():
    pool = BlockPool(4, page_size=4, block_size=4)
    first, second = pool.open(np.arange(4)), pool.open(np.arange(4))
    assert pool.grow(first, 4)
    assert pool.grow(second, 4)
    pool.publish(first, np.arange(4), exact=4)
    pool.publish(second, np.arange(4), exact=4)
    assert second.table == first.table
    assert pool.available == 3
    pool.check([first, second])


def test_the_longest_unused_goes_first_and_a_child_before_its_parent():
    pool = BlockPool(3, page_size=2, block_size=2)
    old, young = tokens(1, 1, 2, 2), tokens(5, 5)
    for prompt in (old, young):
        lease = pool.open(prompt)
        assert pool.grow(lease, len(prompt))
        pool.publish(lease, prompt, exact=len(prompt))
        pool.close(lease)
    taker = pool.open(tokens(9, 9))
    assert pool.grow(taker, 2)
    assert len(pool.open(old).table) == 1
    assert len(pool.open(young).table) == 1


def test_grow_that_cannot_be_met_changes_nothing():
    pool = BlockPool(2, page_size=4, block_size=4)
    lease = pool.open(np.arange(4))
    assert pool.grow(lease, 4)
    assert not pool.grow(lease, 9)
    assert len(lease.table) == 1
    assert pool.available == 1


def test_without_sharing_nothing_is_cached():
    pool = BlockPool(2, page_size=4, block_size=4, share=False)
    lease = pool.open(np.arange(4))
    assert pool.grow(lease, 4)
    pool.publish(lease, np.arange(4), exact=4)
    pool.close(lease)
    assert pool.open(np.arange(4)).table == []
    assert pool.available == 2


class PoolMachine(RuleBasedStateMachine):
    """Requests come, grow, publish and leave in any order; every page stays accounted for."""

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(12, page_size=2, block_size=4)
        self.live = []

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=16))
    def arrive(self, prompt):
        prompt = np.array(prompt, dtype=np.int64)
        lease = self.pool.open(prompt)
        if not self.pool.grow(lease, len(prompt)):
            self.pool.close(lease)
            return
        self.live.append((lease, prompt))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def publish(self, data):
        lease, prompt = data.draw(st.sampled_from(self.live))
        self.pool.publish(lease, prompt, data.draw(st.integers(0, len(prompt))))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data):
        lease, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.pool.close(lease)

    @invariant()
    def accounted(self):
        self.pool.check([lease for lease, _ in self.live])

    @invariant()
    def shared_pages_hold_the_same_tokens(self):
        owner = {}
        for lease, prompt in self.live:
            for index, page in enumerate(lease.table[: self.pool.pages_for(len(prompt))]):
                beginning = tuple(prompt[: (index + 1) * 2])
                if index < len(lease.nodes) * 2:
                    assert owner.setdefault(page, beginning) == beginning


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
