"""``recopt completion``, and the names that Tab completes. Neither torch nor mlflow is imported, so a Tab is quick."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from ..checking.errors import RecoptError

if TYPE_CHECKING:
    from ..stacks.plugin_file import Kind

_SHELLS = ("bash", "zsh", "fish")
_DECLARE = ("option", "positive", "unit", "real")
"""The functions by which a strategy declares a setting."""
_IN_STACKS = ("moves", "by", "only")
"""Fields of a level that the stack says."""


@add_completion_class
class _Bash(BashComplete):
    """Click's completion for bash, with no space after a name that a value has to follow."""

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", 'COMPREPLY+=("$value")\n            if [[ $value == *= ]]; then compopt -o nospace; fi'
    )


@click.command()
@click.argument("shell", required=False, type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print the completion script of a shell (of $SHELL if none is named): Tab then completes names.

    It completes commands, options, strategies (also after a /), tasks, runs and settings. One line installs it:

    bash, in ~/.bashrc:  eval "$(recopt completion bash)"

    zsh, in ~/.zshrc after compinit:  eval "$(recopt completion zsh)"

    fish:  recopt completion fish > ~/.config/fish/completions/recopt.fish
    """
    shell = shell or Path(os.environ.get("SHELL", "")).name
    made = get_completion_class(shell) if shell in _SHELLS else None
    if made is None:
        raise RecoptError(f"Which shell? Name one of {', '.join(_SHELLS)}, as in: recopt completion bash.")
    click.echo(made(ctx.find_root().command, {}, "recopt", "_RECOPT_COMPLETE").source(), nl=False)


def complete_task(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of tasks; a path is completed by the shell."""
    return _term("task", ctx, "", incomplete) or [CompletionItem(incomplete, "file")]


def complete_stack(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of strategies for the last place of a stack, or their settings within brackets."""
    at = max((m.end() for m in re.finditer(r"[/+]", incomplete) if not _open(incomplete[: m.start()])), default=0)
    return _term("strategy", ctx, incomplete[:at], incomplete[at:])


def complete_baselines(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of strategies for the last place of a list with commas."""
    before, comma, last = incomplete.rpartition(",")
    return _term("strategy", ctx, before + comma, last)


def complete_plugin(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Names of strategies and tasks; a path is completed by the shell."""
    found = [*_names("strategy", ctx, incomplete), *_names("task", ctx, incomplete)]
    return found or [CompletionItem(incomplete, "file")]


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Ids of the latest runs of a local store, with their names, or names where those begin so."""
    from ..tracking.mlflow.runs import glance

    with suppress(RecoptError):
        rows = glance(ctx.params.get("store"))
        found = [CompletionItem(run[:8], help=name) for run, name in rows if run.startswith(incomplete)]
        return found or [CompletionItem(name) for name in dict(rows).values() if name.startswith(incomplete)]
    return []


def complete_setting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Settings of the levels and strategies of the stack that was given: ``level2.every=``, ``adam.lr=``."""
    stack = ctx.params.get("stack") or "".join(
        ctx.args[1:2]
    )  # click parses no arguments before an option without value
    plain = re.sub(r"\([^)]*\)|\[[^]]*\]", "", stack)
    slots, levels, below = dict[str, str](), 0, 1
    for depth, layer in enumerate(plain.split("/"), 1):
        pieces = [piece.strip().partition("@") for piece in layer.split("+")]
        for name, _, label in pieces:
            slot = label or name.replace("-", "_")
            slots[slot if label or slot not in slots else f"{slot}{depth}"] = name
        levels, below = levels + len(pieces) * below, len(pieces)
    words = [f"level{n}.{field}=" for n in range(1, levels + 1) for field in _level_fields()]
    words += [f"{slot}.{key}=" for slot, name in slots.items() for key in _settings(name, ctx)]
    if "." not in incomplete:  # first what stands before the point
        words = list(dict.fromkeys(word[: word.index(".") + 1] for word in words))
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _open(text: str) -> bool:
    """True if ``text`` ends within brackets."""
    return text.count("(") > text.count(")") or text.count("[") > text.count("]")


def _term(kind: Kind, ctx: click.Context, before: str, text: str) -> list[CompletionItem[str]]:
    """The plugins whose name begins with ``text``, or the settings of the one whose bracket is open."""
    name, bracket, inside = text.partition("(")
    if not bracket:
        return _names(kind, ctx, text, before)
    earlier, comma, key = inside.rpartition(",")
    start = f"{before}{name}({earlier}{comma}{' ' if key.startswith(' ') else ''}"
    keys = _settings(name, ctx) if kind == "strategy" and _open(text) else []
    return [CompletionItem(f"{start}{one}=") for one in keys if one.startswith(key.strip())]


def _names(kind: Kind, ctx: click.Context, text: str, before: str = "") -> list[CompletionItem[str]]:
    from ..stacks.places import candidates

    found: dict[str, CompletionItem[str]] = {}
    with suppress(RecoptError, OSError):  # a place that is not there
        for one in candidates(kind, ctx.params.get("plugins") or (), _unread):
            if one.name.startswith(text.replace("_", "-")) and one.name not in found:
                found[one.name] = CompletionItem(f"{before}{one.name}")
                with suppress(RecoptError):
                    found[one.name].help = one.summary() if one.summary else None
    return sorted(found.values(), key=lambda item: item.value)


def _unread(folder: Path, name: str) -> type:
    raise RecoptError(f"{folder} is an export, whose name is enough here.")


def _settings(name: str, ctx: click.Context) -> list[str]:
    """The settings that the strategy ``name`` declares; its file is read and not run."""
    from ..stacks.places import candidates, canonical

    with suppress(RecoptError, OSError):
        for one in candidates("strategy", ctx.params.get("plugins") or ()):
            if one.name == canonical(name) and one.path is not None:
                return [
                    key for key, value in _assigned(one.path)
                    if isinstance(value, ast.Call) and getattr(value.func, "id", "") in _DECLARE
                ]  # fmt: skip
    return []


def _level_fields() -> list[str]:
    """The settings of a level, as after ``--set levelN.``."""
    found = _assigned(Path(__file__).parents[1] / "levels" / "level.py", ast.AnnAssign)
    return [key for key, _ in found if key not in _IN_STACKS]


def _assigned(path: Path, kind: type[ast.Assign | ast.AnnAssign] = ast.Assign) -> Iterator[tuple[str, ast.expr | None]]:
    """Names and values of the assignments in the classes of a file."""
    with suppress(OSError, SyntaxError, ValueError):
        classes = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef)]
        for node in (part for one in classes for part in one.body if isinstance(part, kind)):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name):
                yield target.id, node.value
