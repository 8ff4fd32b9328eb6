"""How much is trained: the sizes of a full run and of a smoke run, and the stages of each.

This module never imports torch, so that worker processes of the generator start quickly.
"""

from dataclasses import dataclass, field, replace

from optimus_server.demo.corpus import Layout

VARIANTS = {"demo": 1, "demo-sdar": 0}  # name of the checkpoint: its logit shift
MINUTES = 7.5  # what the default steps take on one H100, both variants, without evaluation


@dataclass(frozen=True)
class Shape:
    """Sizes as in config.json; the defaults are the demo model's (7.9 M parameters)."""

    vocabulary: int = 1024
    hidden: int = 256
    layers: int = 8
    heads: int = 4
    kv_heads: int = 1
    head_dim: int = 128
    ffn: int = 768
    theta: float = 1e6
    eps: float = 1e-6
    context: int = 2048


# What the demo model can be widened to. JetLM's SDAR-1.7B-Chat, SDAR-4B-Chat and SDAR-8B-Chat: sizes of Qwen3, heads of
# their own; their weights have 4.06, 8.83 and 16.4 GB.
LIKE = {
    "sdar-1.7b": Shape(151936, hidden=2048, layers=28, heads=16, kv_heads=8, ffn=6144),
    "sdar-4b": Shape(151936, hidden=2560, layers=36, heads=32, kv_heads=8, ffn=9728),
    "sdar-8b": Shape(151936, hidden=4096, layers=36, heads=32, kv_heads=8, ffn=12288),
}


@dataclass(frozen=True)
class Stage:
    """One training stage, which goes on from the weights of the stage before it.

    Attributes:
        shift: None for next-token prediction, else block diffusion with that logit shift.
        first_batch: number of the batch it begins with.
    """

    name: str
    steps: int
    shift: int | None
    learning_rate: float
    first_batch: int
    warm_up: int


@dataclass(frozen=True)
class Plan:
    shape: Shape = field(default_factory=Shape)
    layout: Layout = field(default_factory=Layout)
    shards: int = 400  # 315 M tokens
    tokenizer_examples: int = 40_000
    autoregressive_steps: int = 2800
    shifted_steps: int = 2600
    unshifted_steps: int = 1000
    learning_rate: float = 2e-3
    unshifted_rate: float = 1.5e-3
    warm_up: int = 100
    save_every: int = 500
    log_every: int = 50
    prompts: int = 500  # of the evaluation that ends a run

    def stages(self, variant: str) -> list[Stage]:
        """The stages that lead to ``variant``.

        The model without shift goes on from the one with: that has all of its abilities, one position off, and
        needs few steps (loss level after 100, measured).
        """
        ar, shifted = self.autoregressive_steps, self.shifted_steps
        stages = [
            Stage("ar", ar, None, self.learning_rate, 0, self.warm_up),
            Stage("demo", shifted, 1, self.learning_rate, ar, self.warm_up),
            Stage("demo-sdar", self.unshifted_steps, 0, self.unshifted_rate, ar + shifted, min(30, self.warm_up)),
        ]
        return stages[:2] if variant == "demo" else stages


def full(minutes: float) -> Plan:
    """The shipped recipe, with its steps scaled to ``minutes`` of training on one H100."""
    plan = Plan()
    scale = minutes / MINUTES
    return replace(
        plan,
        autoregressive_steps=max(1, round(plan.autoregressive_steps * scale)),
        shifted_steps=max(1, round(plan.shifted_steps * scale)),
        unshifted_steps=max(1, round(plan.unshifted_steps * scale)),
    )


def smoke() -> Plan:
    """Every part of the recipe at a size that a CPU finishes in seconds. The result speaks no sense."""
    return Plan(
        shape=Shape(hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, ffn=96),
        layout=Layout(tokens=1024, batches=(256, 512)),
        shards=2,
        tokenizer_examples=3000,
        autoregressive_steps=4,
        shifted_steps=4,
        unshifted_steps=4,
        warm_up=2,
        save_every=2,
        log_every=1,
        prompts=4,
    )
