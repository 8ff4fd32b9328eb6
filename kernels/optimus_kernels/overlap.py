"""Programmatic dependent launch: a kernel is set up while the one before it still runs.

On GPUs that can do it (Hopper and newer) a kernel's programs take their places, and wait there, as soon as all programs
of the kernel before have called ``follow``. That hides the time between two kernels, which is as long as a short one.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@cache
def overlap(device: torch.device) -> dict[str, Any]:
    """What to launch a kernel with that begins with ``follow``."""
    able = device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
    return {"OVERLAP": True, "launch_pdl": True} if able else {"OVERLAP": False}


@triton.jit
def follow(OVERLAP: tl.constexpr):
    """Go on when all kernels before are complete, and let the next one be set up.

    In this order one kernel only waits beside the one that runs. In the other one many would, and the programs of a
    product, which should be spread evenly, would be crowded where there is room.
    """
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()
