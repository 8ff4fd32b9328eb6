"""KV page pool and prefix cache: who holds which page.

A page is free, in one request's lease, or in one node of the prefix cache; ``check()`` counts. The cache is a tree
of *units*: the least common multiple of page and block size, because KV is a function of whole blocks and memory is
shared in whole pages (pages of 48 and blocks of 32 make units of 96). A node's key is its parent and its unit's own
tokens, compared in full, so there are no hash collisions to think about.

A node nobody holds stays until its pages are needed; the longest unused goes first. Whoever takes a node takes its
parents too, and gives the child back before them, so a parent is never evicted before its children.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Node:
    """One unit of exact KV, shared by every request whose tokens begin the same way."""

    key: tuple[int, bytes]
    serial: int
    pages: list[int]
    holders: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """What one request holds: the nodes it shares, and its page table, which begins with theirs."""

    nodes: list[Node] = field(default_factory=list)
    table: list[int] = field(default_factory=list)


class BlockPool:
    """All KV pages of one engine.

    Args:
        pages: pages in the pool.
        page_size: positions a page holds.
        block_size: the checkpoint's block size B.
        share: keep a prefix cache; without it every node is refused.

    Example: pages of 16, B = 32, prompt of 70 tokens, all of it cached by an earlier request:

        >>> pool = BlockPool(8, 16, 32)
        >>> pool.unit
        32
    """

    def __init__(self, pages: int, page_size: int, block_size: int, *, share: bool = True) -> None:
        self.pages, self.page_size, self.share = pages, page_size, share
        self.unit = math.lcm(page_size, block_size)
        self._free = list(range(pages - 1, -1, -1))
        self._nodes: dict[tuple[int, bytes], Node] = {}
        self._idle: OrderedDict[Node, None] = OrderedDict()
        self._serial = 0

    @property
    def available(self) -> int:
        """Pages that can be had without taking any from a request."""
        return len(self._free) + len(self._idle) * (self.unit // self.page_size)

    def pages_for(self, positions: int) -> int:
        return -(-positions // self.page_size)

    def open(self, tokens: Tokens) -> Lease:
        """A lease that shares the longest cached prefix of ``tokens``, in whole units."""
        lease = Lease()
        parent = 0
        for unit in range(len(tokens) // self.unit if self.share else 0):
            node = self._nodes.get(self._key(parent, tokens, unit))
            if node is None:
                break
            self._hold(lease, node)
            lease.table.extend(node.pages)
            parent = node.serial
        return lease

    def grow(self, lease: Lease, positions: int) -> bool:
        """Make the lease's table cover ``positions``; False, and nothing changed, if there are not enough pages."""
        missing = self.pages_for(positions) - len(lease.table)
        if missing <= 0:
            return True
        if missing > self.available:
            return False
        while len(self._free) < missing:
            node, _ = self._idle.popitem(last=False)
            del self._nodes[node.key]
            self._free.extend(node.pages)
        for _ in range(missing):
            lease.table.append(self._free.pop())
        return True

    def publish(self, lease: Lease, tokens: Tokens, exact: int) -> None:
        """Share the lease's units below position ``exact``, whose KV is final and depends on ``tokens`` alone.

        Where another request was faster, the lease takes that node's pages and frees its own.
        """
        per_unit = self.unit // self.page_size
        for unit in range(len(lease.nodes), exact // self.unit if self.share else 0):
            parent = lease.nodes[-1].serial if lease.nodes else 0
            key = self._key(parent, tokens, unit)
            mine = slice(unit * per_unit, (unit + 1) * per_unit)
            node = self._nodes.get(key)
            if node is None:
                self._serial += 1
                node = self._nodes[key] = Node(key, self._serial, lease.table[mine])
            else:
                self._free.extend(lease.table[mine])
                lease.table[mine] = node.pages
            self._hold(lease, node)

    def close(self, lease: Lease) -> None:
        """Give everything back; shared nodes stay in the cache until their pages are needed."""
        shared = len(lease.nodes) * (self.unit // self.page_size)
        self._free.extend(lease.table[shared:])
        for node in reversed(lease.nodes):
            node.holders -= 1
            if not node.holders:
                self._idle[node] = None
        lease.nodes, lease.table = [], []

    def check(self, leases: list[Lease]) -> None:
        """Raise AssertionError unless free + leased + cached pages are all pages, each exactly once."""
        per_unit = self.unit // self.page_size
        private = [page for lease in leases for page in lease.table[len(lease.nodes) * per_unit :]]
        cached = [page for node in self._nodes.values() for page in node.pages]
        assert sorted(self._free + private + cached) == list(range(self.pages))
        for node in self._nodes.values():
            assert node.holders == sum(node in lease.nodes for lease in leases)
            assert (node in self._idle) == (node.holders == 0)
        for lease in leases:
            shared = [page for node in lease.nodes for page in node.pages]
            assert lease.table[: len(shared)] == shared

    def _key(self, parent: int, tokens: Tokens, unit: int) -> tuple[int, bytes]:
        return parent, tokens[unit * self.unit : (unit + 1) * self.unit].tobytes()

    def _hold(self, lease: Lease, node: Node) -> None:
        node.holders += 1
        self._idle.pop(node, None)
        lease.nodes.append(node)
