"""What the benchmarks share on their command lines and in their reports."""

import argparse
import os
import platform
import time
from typing import Any

import torch

from optimus_server import __version__


def positive(text: str) -> int:
    """A flag that counts something."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def not_negative(text: str) -> int:
    """A flag that counts something, or nothing."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def chunk_size(text: str) -> int | None:
    """One value of ``--chunk``, as ``Params.chunk`` takes it: None, of ``auto``, leaves it to the controller."""
    return None if text == "auto" else positive(text)


def machine(device: str) -> dict[str, Any]:
    """Where and when figures were taken: the head of every report."""
    return {
        "device": torch.cuda.get_device_name(device) if "cuda" in device else platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optimus": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }
