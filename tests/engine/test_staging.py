from dataclasses import dataclass

import pytest
import torch

from optimus_server.engine.staging import ALIGNMENT, Staging


@dataclass(frozen=True)
class Inner:
    flags: torch.Tensor
    name: str
    nothing: torch.Tensor | None = None


@dataclass(frozen=True)
class Outer:
    ids: torch.Tensor
    inner: Inner | None
    numbers: torch.Tensor


def equal(a, b):
    assert torch.equal(a.ids, b.ids)
    assert torch.equal(a.inner.flags, b.inner.flags)
    assert a.inner.flags.dtype is torch.bool
    assert torch.equal(a.numbers, b.numbers)
    assert (b.inner.name, b.inner.nothing) == (a.inner.name, None)


def test_every_tensor_arrives_with_its_type_and_shape():
    staging = Staging(torch.device("cpu"))
    for size in (1, 3, 200, 7):
        packed = Outer(
            torch.arange(2 * size).view(2, size),
            Inner(torch.arange(size) % 2 > 0, "x"),
            torch.rand(size, dtype=torch.float64),
        )
        sent = staging.send(packed)
        equal(packed, sent)
        for tensor in (sent.ids, sent.inner.flags, sent.numbers):
            assert tensor.data_ptr() % ALIGNMENT == sent.ids.data_ptr() % ALIGNMENT


def test_what_was_sent_stays_when_the_next_is_sent():
    staging = Staging(torch.device("cpu"))
    first = staging.send(Inner(torch.tensor([True, False]), "x"))
    staging.send(Inner(torch.tensor([False, False]), "y"))
    assert first.flags.tolist() == [True, False]


def test_two_steps_may_be_on_their_way():
    """A copy from pinned memory may not have happened yet when the next step is sent."""
    staging = Staging(torch.device("cpu"))
    pieces = []
    for value in (1, 2, 3):
        staging.send(Inner(torch.tensor([value]), "x"))
        pieces.append(staging._pinned[0])
    assert pieces[0].data_ptr() != pieces[1].data_ptr()
    assert pieces[0].data_ptr() == pieces[2].data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_it_too():
    staging = Staging(torch.device("cuda"))
    packed = Outer(torch.arange(4), Inner(torch.tensor([True]), "x"), torch.rand(3))
    sent = staging.send(packed)
    assert sent.numbers.is_cuda
    equal(packed, Outer(sent.ids.cpu(), Inner(sent.inner.flags.cpu(), "x"), sent.numbers.cpu()))
