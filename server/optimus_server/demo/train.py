"""Training from nothing: generator -> tokeniser -> autoregressive stage -> block diffusion -> checkpoint directory.

Everything random comes from one seed, and a stage's step n always sees the same batch and the same noise, so a run
that is resumed goes on where it stopped. Figures per stage go to standard output and to train.log.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optimus_server.demo.attention import Mask, TiledMasks
from optimus_server.demo.corpus import Corpus
from optimus_server.demo.export import export
from optimus_server.demo.loss import optimizer, schedule, weighted_loss
from optimus_server.demo.network import Network
from optimus_server.demo.objective import Noise, Work, autoregressive, block_diffusion
from optimus_server.demo.plan import Plan, Stage
from optimus_server.demo.tokenizer import save_tokenizer, train_tokenizer

Report = Callable[[str], None]


class Trainer:
    """One network on one device, taken through the stages of a plan."""

    def __init__(self, plan: Plan, out: Path, seed: int, device: torch.device, report: Report) -> None:
        self.plan, self.out, self.seed, self.device, self.report = plan, out, seed, device, report
        self.network = Network(plan.shape).to(device)
        self._loss = weighted_loss
        self._masks: dict[int, TiledMasks] = {}
        if device.type == "cuda":
            # Two shapes occur, one copy of the tokens and two; each is worth its own kernels.
            torch._dynamo.config.automatic_dynamic_shapes = False
            for layer in self.network.model.layers:
                layer.compile()
            self._loss = torch.compile(weighted_loss)

    def run(self, stage: Stage, corpus: Corpus) -> dict[str, float]:
        """Train one stage from its own checkpoint if there is one, else from the weights at hand."""
        optim = optimizer(self.network, stage.learning_rate)
        begin, before = self._resume(stage, optim)
        started = logged = time.perf_counter()
        tokens = self.plan.layout.tokens
        for step in range(begin, stage.steps):
            rate = stage.learning_rate * schedule(step, stage.steps, stage.warm_up)
            for group in optim.param_groups:
                group["lr"] = rate
            loss = self._loss_of(stage, corpus, step)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optim.step()
            optim.zero_grad(set_to_none=True)
            done = step + 1
            if done % self.plan.log_every == 0 or done == stage.steps:
                value, now = loss.item(), time.perf_counter()
                speed = tokens * min(self.plan.log_every, done - begin) / (now - logged)
                eta = (stage.steps - done) * tokens / speed
                self.report(
                    f"{stage.name} {done}/{stage.steps} loss {value:.4f} lr {rate:.2e} "
                    f"{speed / 1e6:.2f} M tokens/s ETA {eta:.0f} s"
                )
                logged = now
            if done % self.plan.save_every == 0 or done == stage.steps:
                self._save(stage, optim, done, before + time.perf_counter() - started)
        return {"steps": stage.steps, "seconds": round(before + time.perf_counter() - started, 1)}

    def _loss_of(self, stage: Stage, corpus: Corpus, step: int) -> Tensor:
        arrays = corpus.batch(stage.first_batch + step)
        ids, roles = (torch.from_numpy(a.astype("int64")).to(self.device) for a in arrays)
        if stage.shift is None:
            work = autoregressive(ids, roles)
        else:
            generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
            work = block_diffusion(ids, roles, Noise(stage.shift), generator)
        mask = self._mask(work, length=ids.shape[1], copies=work.ids.numel() // ids.numel())
        cast = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with cast:
            hidden = self.network(work.ids, work.positions, mask)
            return self._loss(hidden, self.network.lm_head.weight, work.source, work.targets, work.weights)

    def _mask(self, work: Work, length: int, copies: int) -> Mask:
        if self.device.type != "cuda":
            return work.spans.dense()
        total = work.ids.numel()
        if total not in self._masks:
            self._masks[total] = TiledMasks(total, self.device)
        return self._masks[total].mask(work.spans, length, copies)

    def _file(self, stage: Stage) -> Path:
        return self.out / "checkpoints" / f"{stage.name}.pt"

    def _save(self, stage: Stage, optim: torch.optim.Optimizer, step: int, seconds: float) -> None:
        path = self._file(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "step": step,
            "steps": stage.steps,
            "seconds": seconds,
            "network": self.network.state_dict(),
            "optim": optim.state_dict(),
        }
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def finished(self, stage: Stage) -> bool:
        """Whether a checkpoint of the stage's last step exists."""
        path = self._file(stage)
        return path.exists() and torch.load(path, map_location="cpu", weights_only=True)["step"] == stage.steps

    def _resume(self, stage: Stage, optim: torch.optim.Optimizer) -> tuple[int, float]:
        """Load the stage's checkpoint, if any; the step and the seconds of training it stands for."""
        path = self._file(stage)
        if not path.exists():
            return 0, 0.0
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["steps"] != stage.steps:
            raise ValueError(f"{path} belongs to a run of {state['steps']} steps, not {stage.steps}")
        self.network.load_state_dict(state["network"])
        optim.load_state_dict(state["optim"])
        self.report(f"{stage.name}: resumed at step {state['step']}")
        return int(state["step"]), float(state["seconds"])


def train(
    plan: Plan,
    out: Path,
    variant: str,
    *,
    seed: int,
    device: torch.device,
    processes: int,
    resume: bool,
    report: Report,
) -> dict[str, Path]:
    """Train and export ``variant`` (and what leads to it); returns the checkpoint directories.

    Args:
        out: gets tokenizer/, checkpoints/, train.json and one directory per variant.
        processes: workers of the generator.
        resume: go on from checkpoints in ``out``; otherwise they are deleted.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in (out / "checkpoints").glob("*.pt"):
            old.unlink()
    started = time.perf_counter()
    vocabulary = out / "tokenizer"
    vocabulary.mkdir(exist_ok=True)
    tokenizer = train_tokenizer(seed, plan.tokenizer_examples)
    save_tokenizer(tokenizer, vocabulary, plan.shape.context)
    report(f"tokenizer: {tokenizer.get_vocab_size()} entries in {time.perf_counter() - started:.0f} s")

    stages = plan.stages(variant)
    trainer = Trainer(plan, out, seed, device, report)
    first = next((stage.first_batch for stage in stages if not trainer.finished(stage)), 0)
    corpus = Corpus(vocabulary / "tokenizer.json", plan.layout, seed, plan.shards, processes, first)
    trainer.network.initialise(seed)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    figures: dict[str, Any] = {
        "tokens_per_step": plan.layout.tokens,
        "seed": seed,
        "device": name,
        "torch": torch.__version__,
    }
    directories: dict[str, Path] = {}
    try:
        for stage in stages:
            figures[stage.name] = trainer.run(stage, corpus)
            report(f"{stage.name}: {figures[stage.name]['seconds']} s")
            if stage.shift is not None:
                directories[stage.name] = export(trainer.network, tokenizer, out / stage.name, stage.shift)
    finally:
        corpus.close()
    figures["seconds"] = round(sum(figures[stage.name]["seconds"] for stage in stages), 1)
    (out / "train.json").write_text(json.dumps(figures, indent=2) + "\n")
    report(f"trained in {figures['seconds']} s; {time.perf_counter() - started:.0f} s with tokenizer and export")
    return directories
