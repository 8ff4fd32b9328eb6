"""Which class runs which model_type.

An architecture is a module with ``sources``, ``prepare``, ``forward`` and ``logits``, as ``Qwen3`` documents
them.
"""

from optimus_server.models.qwen3 import Qwen3

ARCHITECTURES: dict[str, type[Qwen3]] = {"qwen3": Qwen3, "sdar": Qwen3, "sdar_shift": Qwen3}
