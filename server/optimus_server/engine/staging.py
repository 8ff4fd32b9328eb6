"""The host's tensors of a step on their way to the device: all of them in one copy."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import accumulate
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")

ALIGNMENT = 16
"""Bytes: what kernels may expect of an address."""


class Staging:
    """Two pieces of pinned memory, from which a copy waits for nothing, not even for what the device is computing.

    They are used in turns, so when a step is sent, the result of the last but one must have come.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned = [torch.empty(0, dtype=torch.uint8) for _ in range(2)]

    def send(self, packed: T) -> T:
        """The same dataclass, with every tensor in it, and in the dataclasses in it, on the device."""
        # Tensors of one type lie side by side: a view costs the host microseconds, and there are many tensors.
        kinds: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        tensors = list(_tensors(packed))
        for tensor in tensors:
            kinds[tensor.dtype].append(tensor.view(-1))
        ends = list(accumulate((_room(group) for group in kinds.values()), initial=0))
        self._pinned.reverse()
        if ends[-1] > len(self._pinned[0]):
            self._pinned[0] = torch.empty(2 * ends[-1], dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        pinned = self._pinned[0]
        for (dtype, group), begin in zip(kinds.items(), ends, strict=False):
            size = sum(map(len, group)) * dtype.itemsize
            torch.cat(group, out=pinned[begin : begin + size].view(dtype))
        there = pinned[: ends[-1]].to(self._device, non_blocking=True, copy=True)
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
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _rebuilt(value: Any, tensors: Iterator[Tensor]) -> Any:
    """``value`` with the next ones of ``tensors`` in the places of its own, in the same order."""
    if isinstance(value, Tensor):
        return next(tensors)
    if is_dataclass(value):
        return type(value)(**{field.name: _rebuilt(getattr(value, field.name), tensors) for field in fields(value)})  # type: ignore[misc]
    return value
