import pytest
import torch

pytest.importorskip("triton")
from optimus_kernels.linear.kernel import linear_triton
from optimus_kernels.norm.kernel import rms_norm_triton
from optimus_kernels.overlap import overlap
from tests.kernels.conftest import DEVICE


@pytest.mark.parametrize(("major", "able"), [(8, False), (9, True), (10, True)])
def test_cards_since_hopper_are_able_to(major, able, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    card = torch.device("cuda", major)
    assert overlap(card)["OVERLAP"] is able
    assert ("launch_pdl" in overlap(card)) is able
    overlap.cache_clear()


def test_nothing_overlaps_in_the_interpreter():
    assert overlap(torch.device("cpu")) == {"OVERLAP": False}


@pytest.mark.skipif(DEVICE == "cpu", reason="kernels overlap on a GPU only")
def test_a_chain_of_kernels_is_as_if_each_waited_for_the_one_before():
    x, weight = (torch.randn(32, 4096, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    square = torch.randn(4096, 4096, device=DEVICE, dtype=torch.bfloat16) / 64

    def chain(between):
        y, residual = x, None
        for _ in range(50):
            y, residual = rms_norm_triton(y, weight[0], 1e-6, residual)
            between()
            y = linear_triton(y, square)
            between()
        return y

    expected = chain(torch.cuda.synchronize)
    assert chain(lambda: None).equal(expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = chain(lambda: None)
    for _ in range(20):
        graph.replay()
    assert y.equal(expected)
