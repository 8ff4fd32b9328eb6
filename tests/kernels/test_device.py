from types import SimpleNamespace

import torch

from optimus_kernels.device import cores, shared_memory

CARD = torch.device("cuda", 7)


def test_what_a_card_says_of_itself_is_asked_once(monkeypatch):
    asked = []

    def properties(device):
        asked.append(device)
        return SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=232448)

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    assert [cores(CARD), cores(CARD), shared_memory(CARD), shared_memory(CARD)] == [132, 132, 232448, 232448]
    assert asked == [CARD, CARD]
    cores.cache_clear()
    shared_memory.cache_clear()


def test_the_interpreter_is_a_small_card():
    assert (cores(torch.device("cpu")), shared_memory(torch.device("cpu"))) == (8, 2**16)
