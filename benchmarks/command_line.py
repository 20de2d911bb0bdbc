"""The command line of benchmarks that run into a file and print tables from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

Act = Callable[[argparse.Namespace], None]


def run_and_table(text: str | None, run: Act, table: Act, options: Callable[[argparse.ArgumentParser], None]) -> None:
    """``run [OPTIONS] --out FILE`` and ``table FILE``; ``options`` adds those of ``run`` besides its seeds."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("run")
    options(first)
    first.add_argument("--seeds", type=int, default=10)
    first.add_argument("--first", type=int, default=0, help="the first seed")
    first.add_argument("--out", type=Path, required=True)
    first.set_defaults(act=run)
    second = commands.add_parser("table")
    second.add_argument("out", type=Path)
    second.set_defaults(act=table)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.act(given)
