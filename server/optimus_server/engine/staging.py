"""The host's tensors of a step on their way to the device: all of them in one copy."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
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
        tensors = list(_tensors(packed))
        places, end = [], 0
        for tensor in tensors:
            places.append(end)
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        if end > len(self._pinned):
            self._pinned = torch.empty(2 * end, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        for tensor, place in zip(tensors, places, strict=True):
            _view(self._pinned, place, tensor).copy_(tensor)
        there = self._pinned[:end].to(self._device, non_blocking=True, copy=True)
        arrived = (_view(there, place, tensor) for tensor, place in zip(tensors, places, strict=True))
        return cast(T, _rebuilt(packed, arrived))


def _view(memory: Tensor, place: int, like: Tensor) -> Tensor:
    return memory[place : place + like.nbytes].view(like.dtype).view(like.shape)


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
