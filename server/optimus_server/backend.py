"""From settings to everything behind the routes that takes long to build: model, engine, prompter."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optimus_server.api.exchange import Facts
from optimus_server.demo import MODELS
from optimus_server.engine.request import Failed, Request
from optimus_server.errors import ModelError, SettingsError
from optimus_server.settings import Settings, default_threads, state_directory
from optimus_server.text.ask import Ask, Rules, Sampling
from optimus_server.text.prompt import Prompter
from optimus_server.text.tokenizer import Tokenizer
from optimus_server.thread import EngineThread, Host

if TYPE_CHECKING:
    import torch

    from optimus_server.engine.elastic.latency import Profile
    from optimus_server.engine.engine import Engine
    from optimus_server.engine.runner import Runner
    from optimus_server.models.config import ModelConfig

logger = logging.getLogger(__name__)

DEMO_MODEL = MODELS / "demo"
DEMO_MODEL_ID = "optimus-demo"

CPU_KV_BYTES = 512 * 2**20
GPU_KV_SHARE = 0.8
"""Of the memory that is free once the weights are loaded; the rest is for activations."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What ``create_app`` serves, and where it lives; ``shift`` is the model's logit shift."""

    host: Host
    prompter: Prompter
    facts: Facts
    shift: int


def build_backend(settings: Settings) -> Backend:
    """Load the model, allocate its KV memory, measure step times and answer one prompt; each is a line of log.

    Raises:
        ModelError: the checkpoint cannot be served.
        SettingsError: a setting does not fit the checkpoint or this machine.
    """
    from optimus_server.engine.elastic.yields import rungs

    engine, runner, path = build_engine(settings)
    config, on_cpu = engine.config, runner.device.type == "cpu"
    tokenizer = Tokenizer.load(path)
    rules = make_rules(settings, config, capacity=engine.capacity, sampling=Sampling.load(path))
    facts = Facts(
        model_id=settings.model_id or DEMO_MODEL_ID,
        model_type=config.model_type,
        dtype=str(runner.dtype).removeprefix("torch."),
        device=runner.device.type,
        mask_token_id=config.mask_token_id,
        compute_type=settings.compute_type or f"{'cpu' if on_cpu else 'gpu'}+optimized",
        kv_tokens=engine.options.pages * settings.page_size,
        model_sha=hashlib.sha256((path / "config.json").read_bytes()).hexdigest()[:16],
        ladder=rungs(config.block_size, config.logit_shift),
    )
    began = time.perf_counter()
    prompt = Prompter(tokenizer, rules).prompt(Ask(inputs="Hello", max_new_tokens=1))
    engine.add(Request("warm-up", prompt.ids, prompt.params, block_size=config.block_size, shift=config.logit_shift))
    while engine.busy:
        if failed := next((e for _, e in engine.step() if isinstance(e, Failed)), None):
            raise ModelError(f"warm-up failed: {failed.message}")
    logger.info("Warm-up: %.1f s", time.perf_counter() - began)
    if not settings.no_profile:
        engine.know(measured(engine, runner))
    return Backend(EngineThread(engine), Prompter(tokenizer, rules), facts, config.logit_shift)


def model_path(settings: Settings) -> Path:
    return Path(settings.model_id) if settings.model_id else DEMO_MODEL


def build_engine(settings: Settings) -> tuple[Engine, Runner, Path]:
    """The model in an engine that knows nothing of step times yet, its runner, and the directory it came from.

    On a GPU its steps are recorded.

    Raises:
        ModelError, SettingsError: as ``build_backend``.
    """
    import torch

    from optimus_server.engine.engine import Engine, EngineOptions
    from optimus_server.engine.runner import Runner
    from optimus_server.models.cache import page_bytes
    from optimus_server.models.loader import load_model

    path = model_path(settings)
    device = _device(settings.device)
    torch.set_num_threads(settings.threads or default_threads())
    logger.info("Loading %s on %s", settings.model_id or DEMO_MODEL_ID, device)
    model = load_model(
        path,
        device=device,
        dtype=getattr(torch, settings.dtype) if settings.dtype else None,
        block_size=settings.block_size,
        mask_token_id=settings.mask_token_id,
    )
    config, weight = model.config, next(model.net.parameters())
    millions = sum(parameter.numel() for parameter in model.net.parameters()) / 1e6
    logger.info(
        "Model: %s, %.1f M parameters in %s, block size %d",
        config.model_type, millions, str(weight.dtype).removeprefix("torch."), config.block_size,
    )  # fmt: skip

    one_page = page_bytes(config, page_size=settings.page_size, dtype=weight.dtype)
    wanted = settings.max_batch_size * config.max_position_embeddings
    pages = settings.kv_pages or _pages(settings, device, one_page, wanted)
    options = EngineOptions(
        pages=pages,
        page_size=settings.page_size,
        max_rows=settings.max_batch_size,
        prefill_budget=_prefill_budget(settings, config.block_size, on_cpu=device.type == "cpu"),
        share_prefix=not settings.no_prefix_cache,
        tpot_s=settings.tpot_slo_ms and settings.tpot_slo_ms / 1e3,
        ladder=_ladder(settings, config),
    )
    mebibytes, available = pages * one_page / 2**20, _memory(device) / 2**20
    if mebibytes > available:
        raise SettingsError(f"the KV pool needs {mebibytes:.0f} MiB, {device} has {available:.0f}", param="kv_pages")
    logger.info("KV pool: %d tokens, %.0f MiB", pages * settings.page_size, mebibytes)
    runner = Runner(model, pages=options.pages, page_size=options.page_size)
    engine = Engine(runner, options)
    if device.type == "cuda":
        _record(engine, runner)
    return engine, runner, path


def _ladder(settings: Settings, config: ModelConfig) -> tuple[int, ...] | None:
    if settings.chunk_ladder is None:
        return None
    ladder = tuple(int(size) for size in settings.chunk_ladder.split(","))
    least, most = (1, 1) if config.block_size == 1 else (2 - config.logit_shift, 2 * config.block_size)
    if ladder[0] < least or ladder[-1] > most:
        raise SettingsError(
            f"`chunk_ladder` must be from {least} to {most} for this model. Given: {settings.chunk_ladder}",
            param="chunk_ladder",
        )
    return ladder


def measured(engine: Engine, runner: Runner, *, again: bool = False) -> Profile:
    """This model's step times on this device: as stored, or measured now and stored.

    Args:
        again: measure, whatever is stored.
    """
    from optimus_server.engine import profile

    known = None if again else profile.load(state_directory(), runner)
    if known is None:
        began = time.perf_counter()
        with _progress("measuring step times") as progress:
            known = profile.measure(runner, max_positions=_largest_step(engine), progress=progress)
        profile.save(state_directory(), runner, known)
        logger.info("Latency profile: measured in %.1f s", time.perf_counter() - began)
    else:
        logger.info("Latency profile: from an earlier start")
    return known


def _record(engine: Engine, runner: Runner) -> None:
    began = time.perf_counter()
    with _progress("recording steps") as progress:
        runner.record(max_rows=engine.options.max_rows, max_positions=_largest_step(engine), progress=progress)
    logger.info("CUDA graphs: recorded in %.1f s", time.perf_counter() - began)


def _largest_step(engine: Engine) -> int:
    """Positions."""
    return engine.options.max_rows * 2 * engine.config.block_size + engine.options.prefill_budget


@contextmanager
def _progress(doing: str) -> Iterator[Callable[[float], None]]:
    """A bar for a person who watches; what it yields is told the share that is done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(doing, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def make_rules(settings: Settings, config: ModelConfig, *, capacity: int, sampling: Sampling) -> Rules:
    """Limits and defaults of requests.

    Args:
        capacity: positions one request may span in the engine.

    Raises:
        SettingsError: a length or the chunk size does not fit the checkpoint.
    """
    if capacity < 2:
        raise SettingsError(f"the KV pool is smaller than one block of {config.block_size}", param="kv_pages")
    total = settings.max_total_tokens or capacity
    if total > capacity:
        raise SettingsError(
            f"`max_total_tokens` must be <= {capacity}, what checkpoint and KV pool can hold. Given: {total}",
            param="max_total_tokens",
        )
    inputs = settings.max_input_tokens or total - 1
    if not 0 < inputs < total:
        raise SettingsError(
            f"`max_input_tokens` must be < `max_total_tokens`. Given: {inputs} and {total}",
            param="max_input_tokens",
        )
    longest = 2 * config.block_size
    if settings.chunk and settings.chunk > longest:
        raise SettingsError(
            f"`chunk` must be <= {longest}, twice the block size. Given: {settings.chunk}", param="chunk"
        )
    return Rules(
        block_size=config.block_size,
        vocab_size=config.vocab_size,
        max_input_tokens=inputs,
        max_total_tokens=total,
        max_stop_sequences=settings.max_stop_sequences,
        ignore_unsupported=settings.ignore_unsupported_parameters,
        max_best_of=settings.max_best_of,
        max_choices=settings.max_client_batch_size,
        max_top_n_tokens=settings.max_top_n_tokens,
        stop_ids=config.eos_token_ids,
        policy=settings.policy,
        chunk=settings.chunk,
        threshold=config.threshold if settings.threshold is None else settings.threshold,
        sampling=sampling,
    )


def _device(name: str | None) -> torch.device:
    import torch

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {name}: {str(error).splitlines()[0]}", param="device") from None
    return device


def _pages(settings: Settings, device: torch.device, one_page: int, wanted: int) -> int:
    """Pages of the KV pool: as set, else by memory, but no more than ``wanted`` tokens need.

    Args:
        one_page: bytes of a page.
    """
    if settings.max_batch_total_tokens:
        return max(1, settings.max_batch_total_tokens // settings.page_size)
    budget = CPU_KV_BYTES if device.type == "cpu" else int(_memory(device) * GPU_KV_SHARE)
    return max(1, min(wanted // settings.page_size, budget // one_page))


def _memory(device: torch.device) -> int:
    """Bytes: all of a machine's memory, and what is free of a GPU's."""
    import torch

    if device.type == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(torch.cuda.mem_get_info(device)[0])


def _prefill_budget(settings: Settings, block_size: int, *, on_cpu: bool) -> int:
    budget = settings.max_batch_prefill_tokens or max(block_size, 512 if on_cpu else 2048)
    if budget < block_size:
        raise SettingsError(
            f"`max_batch_prefill_tokens` must be >= the block size. Given: {budget} and {block_size}",
            param="max_batch_prefill_tokens",
        )
    return budget
