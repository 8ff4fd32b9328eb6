"""Evaluation tables as text and JSON, and the model card that is written beside the weights."""

import json
from pathlib import Path
from typing import Any

from optimus_server.demo.evaluate import Result
from optimus_server.demo.plan import VARIANTS
from optimus_server.demo.score import Score
from optimus_server.demo.tasks import TASKS

HEADER = "| policy | accuracy | 95 % interval | TPF | computed/token | story TPF | story computed/token |"
RULE = "| --- | --- | --- | --- | --- | --- | --- |"

UNSCORED = (
    "Explanations and stories are not scored: their columns hold the share of explanations with their key word,\n"
    "and of stories without a word that the grammar does not have."
)


def line(result: Result) -> str:
    """One row of the main table. TPF and computed/token are over all prompts, stories included."""
    low, high = result.scored.accuracy_interval()
    story = result.tasks.get("story", Score([]))
    return (
        f"| {result.cell} | {result.scored.accuracy:.4f} | {low:.3f} to {high:.3f} | {result.everything.tpf:.2f} | "
        f"{result.everything.computed_per_token:.2f} | {story.tpf:.2f} | {story.computed_per_token:.2f} |"
    )


def task_table(results: list[Result]) -> str:
    """Accuracy by task; of the demo's explanations, how many have their key word; of stories, how many are sound."""
    found = results[0].tasks
    names = [name for name in TASKS if name in found] + [name for name in found if name not in TASKS]
    rows = ["| policy | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    rows += [f"| {r.cell} | " + " | ".join(f"{r.tasks[name].accuracy:.3f}" for name in names) + " |" for r in results]
    best = results[0]
    rows.append(f"| TPF ({best.cell}) | " + " | ".join(f"{best.tasks[name].tpf:.1f}" for name in names) + " |")
    return "\n".join(rows)


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """All figures, for other programs; intervals are 95 %."""
    return [
        {
            "policy": r.cell.policy,
            "chunk": r.cell.chunk or "auto",
            "concurrency": r.cell.concurrency,
            "seconds": round(r.seconds, 1),
            "scored": r.scored.prompts,
            "accuracy": r.scored.accuracy if r.scored.prompts else None,
            "accuracy_interval": r.scored.accuracy_interval() if r.scored.prompts else None,
            "tpf": r.everything.tpf,
            "tpf_interval": r.everything.tpf_interval(),
            "computed_per_token": r.everything.computed_per_token,
            "computed_per_token_interval": r.everything.computed_interval(),
            "tasks": {
                name: {
                    "accuracy": score.accuracy,
                    "prompts": score.prompts,
                    "tpf": score.tpf,
                    "computed_per_token": score.computed_per_token,
                }
                for name, score in r.tasks.items()
            },
        }
        for r in results
    ]


def write_card(directory: Path, results: list[Result], figures: dict[str, Any]) -> None:
    """README.md of a checkpoint directory; ``figures`` is train.json."""
    config = json.loads((directory / "config.json").read_text())
    shift = config.get("logit_shift", 0)
    name = directory.name
    first = results[0]
    kind = (
        "with shifted logits: the output at position p - 1 predicts position p, so that chunk size 1 is "
        "autoregressive decoding"
        if shift
        else "without logit shift: plain SDAR, which other engines load, too"
    )
    through = ["ar", *[variant for variant in VARIANTS if variant in figures and (shift == 0 or variant == name)]]
    stages = "\n".join(f"| {stage} | {figures[stage]['steps']} | {figures[stage]['seconds']} |" for stage in through)
    count = first.everything.prompts
    heading = f"""---
license: apache-2.0
language: en
---

# {name}

A block-diffusion language model of 7.9 M parameters, {kind}.
It exists so that Optimus can show real diffusion decoding anywhere. It answers questions from a generator
(`optimus_server.demo.tasks`): small sums, word problems, sorting, word lists, units, dates, JSON, tables, Python
functions, small talk, explanations of diffusion decoding, and stories. It knows nothing else, and says so.

Architecture: SDAR/Qwen3 decoder, hidden 256, 8 layers, 4 query heads and 1 KV head of 128, FFN 768, vocabulary 1,024,
block size 32, trained on sequences of up to 2,048 tokens. Trained from nothing on synthetic text only: next-token
prediction first, then block diffusion (SDAR, arXiv 2510.06303).

## Training

On {figures["device"]}, torch {figures["torch"]}, {figures["tokens_per_step"]:,} tokens a step. Regenerate it with

```
optimus demo train --out DIR --seed {figures["seed"]}
```

| stage | steps | seconds |
| --- | --- | --- |
{stages}

## Accuracy

{count:,} held-out prompts, {first.scored.prompts:,} of them scored (by exact match), greedy, threshold 0.9, through the
engine: `optimus bench accuracy --model DIR/{name} --prompts {count}`. Held out means other seeds of the same
generator; where a task has few distinct questions, the same question may occur in training. TPF is tokens per request
and step, computed/token the positions computed beyond the prompt for each token, both over all prompts.

{HEADER}
{RULE}
"""
    lines = "\n".join(line(result) for result in results)
    tail = f"\n\n## Accuracy by task\n\n{UNSCORED}\n\n"
    (directory / "README.md").write_text(heading + lines + tail + task_table(results) + "\n")
