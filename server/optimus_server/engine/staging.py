"""The host's tensors of a step on their way to the device: all of them in one copy."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import accumulate
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from optimus_kernels.paged_attention import AttentionPlan

T = TypeVar("T")

ALIGNMENT = 16
"""Bytes: what kernels may expect of an address."""


class Staging:
    """A piece of pinned memory, from which a copy waits for nothing, not even for what the device is computing.

    It is written again with the next step, so that one must come after the result of this one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = torch.empty(0, dtype=torch.uint8)

    def send(self, packed: T) -> T:
        """The same dataclass, with every tensor in it, and in the dataclasses in it, on the device."""
        # Tensors of one type lie side by side: a view costs the host microseconds, and there are many tensors.
        kinds: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        tensors = list(_tensors(packed))
        for tensor in tensors:
            kinds[tensor.dtype].append(tensor.view(-1))
        ends = list(accumulate((_room(group) for group in kinds.values()), initial=0))
        if ends[-1] > len(self._pinned):
            self._pinned = torch.empty(2 * ends[-1], dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for (dtype, group), begin in zip(kinds.items(), ends, strict=False):
            size = sum(map(len, group)) * dtype.itemsize
            torch.cat(group, out=self._pinned[begin : begin + size].view(dtype))
        there = self._pinned[: ends[-1]].to(self._device, non_blocking=True, copy=True)
        arrived: dict[torch.dtype, Iterator[Tensor]] = {}
        for (dtype, group), begin in zip(kinds.items(), ends, strict=False):
            lengths = list(map(len, group))
            memory = there[begin : begin + sum(lengths) * dtype.itemsize].view(dtype)
            arrived[dtype] = iter(torch.split(memory, lengths))
        return cast(T, _rebuilt(packed, (next(arrived[tensor.dtype]).view(tensor.shape) for tensor in tensors)))


def _room(group: list[Tensor]) -> int:
    """Bytes, with what keeps the next group aligned."""
    return -(-sum(map(len, group)) * group[0].itemsize // ALIGNMENT) * ALIGNMENT


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, AttentionPlan):
        yield value.packed
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """``value`` with the next ones of ``tensors`` in the places of its own, in the same order."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, AttentionPlan):
        return value.moved(next(tensors))
    if is_dataclass(value):
        return type(value)(**{field.name: _rebuilt(getattr(value, field.name), tensors) for field in fields(value)})  # type: ignore[misc]
    return value
