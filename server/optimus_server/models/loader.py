"""From a Hugging Face directory to a model that is ready to run."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from optimus_server.errors import ModelError
from optimus_server.models.config import ModelConfig, load_config, read_json
from optimus_server.models.qwen3 import Qwen3
from optimus_server.models.registry import ARCHITECTURES

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_HEAD = "lm_head.weight"
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory: its facts, its network and where it came from."""

    config: ModelConfig
    net: Qwen3
    path: Path


def load_model(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    block_size: int | None = None,
    mask_token_id: int | None = None,
) -> LoadedModel:
    """Load a checkpoint directory: config.json and one or many safetensors files.

    The network is built without memory first; then each tensor is read straight into its place, so that the
    peak is the model's own size plus one tensor.

    Args:
        dtype: of weights and computation; fp32 on a CPU and bf16 elsewhere by default.
        block_size, mask_token_id: override what config.json says.

    Raises:
        ModelError: anything missing, unexpected, of the wrong shape or unsupported, by name.
    """
    path, device = Path(path), torch.device(device)
    config = load_config(path, block_size=block_size, mask_token_id=mask_token_id)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    files = _weight_files(path)
    with torch.device("meta"):
        net = ARCHITECTURES[config.model_type](config)
    tied = config.tie_word_embeddings and _HEAD not in files
    if tied:
        del net.head
    net.to(dtype=dtype).to_empty(device=device)
    if tied:
        net.head = net.embedding
    _fill(net, files, _places(net, tied=tied))
    if config.tie_word_embeddings and not tied and torch.equal(net.head, net.embedding):
        net.head = net.embedding
    net.prepare()
    return LoadedModel(config, net.eval(), path)


def _weight_files(path: Path) -> dict[str, Path]:
    """Each tensor's name -> the file that holds it."""
    single, index = path / _SINGLE, path / _INDEX
    if single.exists():
        with _open(single, "cpu") as file:
            return dict.fromkeys(file.keys(), single)
    if not index.exists():
        raise ModelError(
            f"{path} holds neither {_SINGLE} nor {_INDEX}; only safetensors weights are supported",
            param="model",
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ModelError(f"{index}: weight_map must map tensor names to file names", param="model")
    absent = sorted({shard for shard in weight_map.values() if not (path / shard).is_file()})
    if absent:
        raise ModelError(f"{path}: weight files named in {_INDEX} are missing: {_some(absent)}", param="model")
    return {name: path / shard for name, shard in weight_map.items()}


def _places(net: Qwen3, *, tied: bool) -> dict[str, list[Tensor]]:
    """Each checkpoint tensor's name -> the views of our parameters that it fills."""
    places: dict[str, list[Tensor]] = defaultdict(list)
    for ours, pieces in net.sources():
        if tied and ours == "head":
            continue
        parameter = net.get_parameter(ours)
        views = parameter.split_with_sizes([rows for _, rows in pieces])
        for (theirs, _), view in zip(pieces, views, strict=True):
            places[theirs].append(view)
    return places


@torch.no_grad()
def _fill(net: Qwen3, files: dict[str, Path], places: dict[str, list[Tensor]]) -> None:
    # old checkpoints store the rotary frequencies, which the config already determines
    found = {name for name in files if not name.endswith("rotary_emb.inv_freq")}
    if missing := sorted(places.keys() - found):
        raise ModelError(f"the checkpoint lacks {len(missing)} tensors: {_some(missing)}", param="model")
    if unexpected := sorted(found - places.keys()):
        kind = net.config.model_type
        raise ModelError(f"{kind} has no place for {len(unexpected)} tensors: {_some(unexpected)}", param="model")
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in places:
        by_file[files[name]].append(name)
    for path, names in by_file.items():
        with _open(path, str(net.norm.device)) as file:
            held = set(file.keys())
            for name in names:
                if name not in held:
                    raise ModelError(f"{path} does not hold {name}, which {_INDEX} places there", param="model")
                _copy(file, path, name, places[name])


def _copy(file: Any, path: Path, name: str, views: list[Tensor]) -> None:
    header = file.get_slice(name)
    shape, kind = tuple(header.get_shape()), header.get_dtype()
    if shape != views[0].shape:
        raise ModelError(
            f"{path}: {name} has shape {list(shape)}, config.json asks for {list(views[0].shape)}",
            param="model",
        )
    if kind not in _FLOATS:
        raise ModelError(f"{path}: {name} is stored as {kind}; supported: {', '.join(_FLOATS)}", param="model")
    tensor = file.get_tensor(name)
    for view in views:
        view.copy_(tensor)


@contextmanager
def _open(path: Path, device: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors: {error}", param="model") from error


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
