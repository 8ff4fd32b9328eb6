"""What kernels must know of a GPU."""

from functools import cache

import torch


@cache
def cores(device: torch.device) -> int:
    """Multiprocessors of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a program may have of a core's shared memory."""
    if device.type != "cuda":
        return 2**16
    # torch has it, its stubs do not
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 48 * 2**10))
