"""The command line and the environment -> Settings.

Flags win over variables, variables over defaults. Names that TGI has keep its flag and its bare variable (``--port``,
``PORT``); ours have an ``OPTIMUS_`` variable, because ``DEVICE`` or ``CHUNK`` may mean something to somebody else.
Nothing else in the package reads the environment.
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from optimus_server.errors import SettingsError
from optimus_server.settings import SECRETS, Settings, is_address

_IGNORED_VALUES = """
    revision validation-workers num-shard sharded quantize speculate kv-cache-dtype
    waiting-served-ratio max-waiting-tokens cuda-graphs watermark-gamma watermark-delta
    prometheus-port shard-uds-path master-addr master-port huggingface-hub-cache weights-cache-override
    cuda-memory-fraction rope-scaling rope-factor otlp-endpoint otlp-service-name tokenizer-config-path
    lora-adapters usage-stats ngrok-authtoken ngrok-edge
"""
_IGNORED_SWITCHES = """
    trust-remote-code enable-prefill-logprobs disable-custom-kernels disable-grammar-support ngrok
"""
IGNORED_FLAGS = dict.fromkeys(_IGNORED_VALUES.split(), True) | dict.fromkeys(_IGNORED_SWITCHES.split(), False)
"""TGI's flags that mean nothing here -> whether they take a value. Accepted with a warning, so that a command
line written for TGI starts."""


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return name.upper() if _extra(Settings.model_fields[name])["tgi"] else f"OPTIMUS_{name.upper()}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag per setting; values stay text, so that flags and variables pass the same check."""
    for name, field in Settings.model_fields.items():
        names = [flag(name), *(n for n in (_extra(field).get("short"), _extra(field).get("alias")) if n)]
        text = f"{field.description}{_default_text(field, ' (default: {})')} [{variable(name)}]".replace("%", "%%")
        if field.annotation is bool:
            parser.add_argument(
                *names, dest=name, action="store_const", const="true", default=argparse.SUPPRESS, help=text
            )
        else:
            parser.add_argument(*names, dest=name, metavar=_metavar(field), default=argparse.SUPPRESS, help=text)
    for ignored, takes_value in IGNORED_FLAGS.items():
        options: dict[str, Any] = {} if takes_value else {"action": "store_true"}
        parser.add_argument(
            f"--{ignored}",
            dest=f"ignored:{ignored}",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
            **options,
        )


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> tuple[Settings, list[str]]:
    """Settings from parsed flags and the environment, and warnings about what was ignored.

    Raises:
        SettingsError: naming the flag or the variable, the value and what is accepted.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    warnings = []
    for name in Settings.model_fields:
        if name in flags:
            values[name], sources[name] = flags[name], flag(name)
        elif (value := environ.get(variable(name), "")) != "":
            if name == "hostname" and not is_address(value):
                # Docker sets HOSTNAME to the container's id; listening there would hide the server.
                continue
            values[name], sources[name] = value, variable(name)
    for ignored in IGNORED_FLAGS:
        source = "--" + ignored
        if f"ignored:{ignored}" in flags or (source := ignored.replace("-", "_").upper()) in environ:
            warnings.append(f"{source} means nothing to this server and is ignored")
    try:
        return Settings(**values), warnings
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from None
        name = str(first["loc"][0])
        problem = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        given = "a secret" if name in SECRETS else values[name]
        raise SettingsError(f"{sources[name]} must be {problem}. Given: {given}", param=name) from None


def markdown_table() -> str:
    """The table of settings in README.md."""
    rows = ["| flag | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        short = _extra(field).get("short")
        flags = f"`{flag(name)}`" + (f", `{short}`" if short else "")
        rows.append(f"| {flags} | `{variable(name)}` | {_default_text(field, '`{}`')} | {field.description} |")
    return "\n".join(rows)


def _extra(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict)
    return dict(field.json_schema_extra)


def _default_text(field: FieldInfo, template: str) -> str:
    return "" if field.default is None or field.annotation is bool else template.format(field.default)


def _metavar(field: FieldInfo) -> str:
    annotations = (field.annotation, *get_args(field.annotation))
    for annotation in annotations:
        if choices := [choice for choice in get_args(annotation) if isinstance(choice, str)]:
            return "{" + ",".join(choices) + "}"
    return "N" if int in annotations else "X" if float in annotations else "TEXT"
