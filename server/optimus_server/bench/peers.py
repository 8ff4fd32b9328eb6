"""What another engine reached on a checkpoint of the same geometry, for the reader to put beside our own figures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Tokens a second by requests at once, with all that is needed to read them."""

    name: str
    card: str
    note: str
    tokens_per_second: dict[int, int]


_LOADS = (1, 4, 8, 16, 32, 64, 128, 256)
_NOTE = (
    "PyTorch engine, bf16, called in process, prefix cache off, threshold 0.9, greedy; a closed loop with prompts of "
    "about 128 tokens; a checkpoint of SDAR-8B's geometry with the decoding behavior of an earlier demo model. One run "
    "after two of warming up"
)
LMDEPLOY = (
    Published(
        "LMDeploy 0.18 block 32",
        "H100 80GB",
        f"{_NOTE}. Answers of about 45 tokens, low_confidence_dynamic",
        dict(zip(_LOADS, (478, 1020, 1508, 2015, 2703, 4540, 4887, 4538), strict=True)),
    ),
    Published(
        "LMDeploy 0.18 AR",
        "H100 80GB",
        f"{_NOTE}. Its Qwen3 path, 64 tokens each",
        dict(zip(_LOADS, (136, 523, 1051, 2034, 2398, 3362, 4560, 5793), strict=True)),
    ),
)
"""Measured once, by Optimus' authors; on another card than the page's own figures unless that is an H100."""
