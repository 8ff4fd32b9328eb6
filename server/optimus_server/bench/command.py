"""``optimus bench``: one subcommand a benchmark."""

import argparse

from optimus_server.bench import decode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add every benchmark to the parser of ``optimus bench``."""
    commands = parser.add_subparsers(dest="bench_command", required=True)
    decode.add_arguments(commands.add_parser("decode", help="the engine alone: batch x chunk size"))


def run(args: argparse.Namespace) -> int:
    """Run the benchmark that was asked for; returns the exit code."""
    return decode.run(args)
