"""The command line. Neither its import nor ``--help`` loads torch or mlflow; commands import what they use."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rich_click as click

from ..checking.errors import Notice, RecoptError
from . import ablate, compare, completion, doctor, listing, new, plugins, run, runs, sweep
from .options import first_process

click.rich_click.COMMAND_GROUPS = {
    "recopt": [
        {"name": "Train", "commands": ["graph", "run", "sweep", "compare", "ablate"]},
        {"name": "Look at runs", "commands": ["runs", "report", "why", "diff", "ui", "export"]},
        {"name": "Strategies and tasks", "commands": ["strategies", "tasks", "show", "new", "check"]},
        {"name": "This machine", "commands": ["doctor", "completion"]},
    ]
}
click.rich_click.OPTIONS_PANEL_TITLE = "Options"
click.rich_click.RANGE_STRING = ""  # a value out of its range is refused with the range
click.rich_click.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"
INTERRUPTED = 130
MISTAKE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="recopt", message="recopt %(version)s")
def recopt() -> None:
    """Optimizers that are optimized by optimizers, to any depth, for PyTorch models.

    Try: recopt run digits adam/hypergradient/annealing
    """


for _command in (
    run.run, run.graph, sweep.sweep, compare.compare, ablate.ablate, listing.runs, runs.diff, runs.report, runs.why,
    runs.ui, runs.export, plugins.strategies, plugins.tasks, plugins.show, plugins.check, new.new, doctor.doctor,
    completion.completion,
):  # fmt: skip
    recopt.add_command(_command)
    for _parameter in _command.params:
        if isinstance(_parameter.type, click.IntRange):
            _parameter.metavar = _parameter.metavar or "N"


_NUMBERS = {"integer": "not a whole number", "float": "not a number"}
"""Kinds of numbers that click names by their types, in words."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for a failure in a user's code, 2 for a mistake in its use."""
    if not sys.warnoptions:
        _quieten()
    with _like_ctrl_c():
        sys.exit(_status(args))


def _status(args: Sequence[str] | None) -> int:
    try:
        return int(recopt.main(list(args) if args is not None else None, "recopt", standalone_mode=False) or 0)
    except click.ClickException as why:
        context = getattr(why, "ctx", None)
        text = re.sub(r"\.? \((Did you mean .*\?)\)", r". \1", why.format_message())
        text = re.sub(r"'([^']{60})[^']+'", r"'\1…'", text)
        text = re.sub(r"not a valid (integer|float)( range)?", lambda m: _NUMBERS[m[1]], text)
        text += "" if text.endswith((".", "?")) else "."
        return _refuse(f"{text} See '{context.command_path} --help'." if context else text, quiet=not first_process())
    except RecoptError as why:
        failed = 1 if type(why).__name__ == "RunFailed" else MISTAKE  # by name: its module loads torch
        return _refuse(str(why), getattr(why, "status", failed))
    except OSError as why:  # such as a full disk
        if isinstance(why, BrokenPipeError):  # the reader, such as head, has closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return _refuse(f"{why.strerror or why}: {why.filename}." if why.filename else f"{why}.", 1)
    except (click.Abort, KeyboardInterrupt):
        return _refuse("Stopped.", INTERRUPTED)


@contextmanager
def _like_ctrl_c() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, so that they end a command in order."""
    before = dict[signal.Signals, Any]()
    if threading.current_thread() is threading.main_thread():
        for sign in (getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)):
            if signal.getsignal(sign) is not signal.SIG_IGN:  # as nohup sets
                before[sign] = signal.signal(sign, signal.default_int_handler)
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _refuse(text: str, status: int = MISTAKE, quiet: bool = False) -> int:
    if not quiet:
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {text}", err=True)
    return status


def _quieten() -> None:
    """Show recopt's warnings in one line each, and hide those of libraries."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=Notice)
    warnings.filterwarnings("default", message="'.*' is left as it is from step ")
    warnings.showwarning = lambda message, *_, **__: click.echo(f"Note: {message}", err=True)
