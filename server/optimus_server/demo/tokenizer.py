"""The demo model's tokenizer: byte-level BPE of 1,024 entries, single digits, and a chat template.

A conversation is ``<|user|>question<|assistant|>answer<|end|><|user|>...``. A system message has no turn of its own:
the template puts it in front of the first question, with an empty line between.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from optimus_server.demo.tasks import draw
from optimus_server.demo.tasks.talk import SYSTEM_PROMPTS

VOCABULARY = 1024
PAD, MASK, USER, ASSISTANT, END = range(5)
# Ids that never occur in training: their logits sink, and widening copies such a row over a larger vocabulary.
RESERVED = tuple(range(5, 13))
SPECIAL = ("<|pad|>", "<|mask|>", "<|user|>", "<|assistant|>", "<|end|>", *(f"<|reserved_{i}|>" for i in range(8)))

CHAT_TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.system = ns.system + (message['content'] | trim) + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '<|user|>' + ns.system + (message['content'] | trim) -}}
{%- set ns.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant|>' + message['content'] + '<|end|>' -}}
{%- else -%}
{{- raise_exception('roles are system, user and assistant, not ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def train_tokenizer(seed: int, examples: int = 40_000) -> Tokenizer:
    """Fit the merges on text from the task generator; all 256 bytes are in, so any UTF-8 text round-trips."""
    rng = Random(f"tokenizer {seed}")

    def texts() -> Iterator[str]:
        yield from SYSTEM_PROMPTS
        for _ in range(examples):
            # Shares as in training would give most merges to word lists, and split the words of stories.
            example = draw(rng, 512, as_tested=True)
            yield example.prompt
            yield example.answer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise RuntimeError(f"the text gave {tokenizer.get_vocab_size()} entries, not {VOCABULARY}: more examples")
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers' AutoTokenizer reads them."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": SPECIAL[END],
        "pad_token": SPECIAL[PAD],
        "mask_token": SPECIAL[MASK],
        "additional_special_tokens": [SPECIAL[USER], SPECIAL[ASSISTANT]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
