"""What another engine reached on a checkpoint of the same geometry, for the reader to put beside our own figures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Tokens a second by requests at once; ``how`` they were measured."""

    name: str
    card: str
    how: str
    tokens_per_second: dict[int, int]


_LOADS = (1, 4, 8, 16, 32, 64, 128, 256)
LMDEPLOY = (
    Published(
        "LMDeploy block 32",
        "H100",
        "answers of about 45 tokens, low_confidence_dynamic, threshold 0.9",
        dict(zip(_LOADS, (478, 1020, 1508, 2015, 2703, 4540, 4887, 4538), strict=True)),
    ),
    Published(
        "LMDeploy AR",
        "H100",
        "its Qwen3 path, 64 tokens each",
        dict(zip(_LOADS, (136, 523, 1051, 2034, 2398, 3362, 4560, 5793), strict=True)),
    ),
)
"""Measured once by Optimus' authors, and not by the page's command."""

NOTE = (
    "LMDeploy: version 0.18.0, PyTorch engine, bf16, on one H100 80GB, measured once and not in this run; called in "
    "process, prefix cache off, greedy, prompts of about 128 tokens, a checkpoint of the same geometry that decodes as "
    "an earlier demo model did"
)
"""What both have in common."""
