"""Options that several commands share."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from ..checking.errors import RecoptError

if TYPE_CHECKING:
    from ..stacks.plugin_file import Kind

Command = TypeVar("Command", bound=Callable[..., Any])

PLUGINS = click.option("--plugins", multiple=True, metavar="DIR", type=click.Path(),
                       help="A folder or file with strategies and tasks, searched first; may be repeated.")  # fmt: skip
DEVICE = click.option("--device", metavar="NAME",
                      help="cpu, cuda, cuda:1 …, or auto for an accelerator if there is one (cpu).")  # fmt: skip
DTYPE = click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision of all tensors (float32).")
SPEC = click.option("--spec", type=click.Path(path_type=Path), metavar="FILE.yaml",
                    help="Repeat what a spec says; other options override it.")  # fmt: skip
STORE = click.option("--store", metavar="URI",
                     help="An MLflow address (MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db).")  # fmt: skip
NAME = click.option("--name", help="Its name in listings.")
NO_TRACK = click.option("--no-track", is_flag=True, help="Record nothing.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


_EXECUTION = (
    click.option("--executor", type=click.Choice(["inline", "processes", "ray"]),
                 help="Who does the work: this process, processes on this machine, or Ray. The numbers are the same."),
    click.option("--workers", type=click.IntRange(1), metavar="N",
                 help="Jobs at the same time (one; with --executor, as many as there are processors)."),
    click.option("--address", metavar="HOST:PORT",
                 help="A Ray cluster's address, or auto; if not given, Ray on this machine."),
    click.option("--threads", type=click.IntRange(1), help="Threads of torch for each job (1)."),
)  # fmt: skip


def executed(command: Command) -> Command:
    """``command`` with the options that say who does its work."""
    for one in reversed(_EXECUTION):
        command = one(command)
    return command


def in_order(task: str, stacks: Sequence[str], plugins: Sequence[str], command: str) -> None:
    """Raise RecoptError, with the right order, if a stack stands where the task should, and a task or nothing after."""
    from ..stacks.plugins import is_known

    def only(kind: Kind, other: Kind, text: str) -> bool:
        name = re.split(r"[/+(@\[]", text, maxsplit=1)[0].strip()
        return is_known(kind, name, plugins) and not is_known(other, name, plugins)

    at = next((n for n, stack in enumerate(stacks) if only("task", "strategy", stack)), None)
    if (at is not None or not stacks) and only("strategy", "task", task):
        right = ["digits", task] if at is None else [stacks[at], task, *stacks[:at], *stacks[at + 1 :]]
        raise RecoptError(f"The task comes first: recopt {command} {shlex.join(right)}.")


def store_words(store: str | None) -> str:
    """The option that names ``store`` again, to be appended to a command; … stands for its secrets."""
    from ..tracking.mlflow.address import masked

    return f" --store {shlex.quote(masked(store, store))}" if store else ""


def under_torchrun() -> bool:
    """True if ``torchrun`` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first_process() -> bool:
    """True if no other process of ``torchrun`` says what this one could say."""
    return not under_torchrun() or os.environ.get("RANK") == "0"


def refuse_torchrun(command: str) -> None:
    """Refuse a command that each process of ``torchrun`` would do for itself; the first of them says so."""
    if not under_torchrun() or os.environ.get("WORLD_SIZE") == "1":
        return
    if not first_process():
        raise SystemExit(2)
    raise RecoptError(
        f"Each process that torchrun starts would do the whole {command}: start 'recopt {command}' without torchrun, "
        "with --executor processes or ray."
    )
