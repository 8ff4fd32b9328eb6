"""Where the kernels run: on the GPU, or in Triton's interpreter."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
# The interpreter's product of bf16 matrices is silently wrong, so bf16 is for GPUs.
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]


@pytest.fixture(autouse=True)
def silent_floats() -> Iterator[None]:
    """The interpreter computes with numpy, which warns of the infinities and NaNs that a GPU takes in silence."""
    with np.errstate(all="ignore"):
        yield
