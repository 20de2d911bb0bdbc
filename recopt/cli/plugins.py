"""``recopt strategies``, ``tasks``, ``show`` and ``check``: list, describe and check plugins."""

from __future__ import annotations

import dataclasses
import inspect
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.markup import escape

from .completion import complete_plugin
from .options import JSON, PLUGINS
from .tables import console, print_json, table

if TYPE_CHECKING:
    from ..contracts.domains import Domain
    from ..stacks.plugins import PluginInfo


@click.command()
@PLUGINS
@JSON
def strategies(plugins: tuple[str, ...], as_json: bool) -> None:
    """List the strategies, one line each."""
    from ..stacks.plugins import list_strategies

    _list(list_strategies(plugins), as_json)


@click.command()
@PLUGINS
@JSON
def tasks(plugins: tuple[str, ...], as_json: bool) -> None:
    """List the tasks, one line each."""
    from ..stacks.plugins import list_tasks

    _list(list_tasks(plugins), as_json)


def _list(found: list[PluginInfo], as_json: bool) -> None:
    if as_json:
        return print_json([dataclasses.asdict(info) for info in found])
    rows = table("name", "", "from", wrap=(1,))
    for info in found:
        text = f"[red]{escape(info.problem)}[/]" if info.problem else escape(info.summary.replace("`", ""))
        mark = ", [green]trained[/]" if info.trained else ""
        rows.add_row(f"[bold]{info.name}[/]", text, escape(info.origin) + mark)
    out = console()
    out.print(rows)
    out.print("\nrecopt show NAME describes one of them.", style="dim")


@click.command()
@click.argument("name", shell_complete=complete_plugin)
@PLUGINS
@JSON
def show(name: str, plugins: tuple[str, ...], as_json: bool) -> None:
    """Describe a strategy or a task: its purpose, hyperparameters, domains and defaults.

    For a trained strategy or the folder of an export, it prints the card and the trained values.
    """
    from ..contracts.settings import Hyper, Option, declared
    from ..stacks.plugins import load_any

    kind, found = load_any(name, plugins)
    hypers, options = declared(found, Hyper), declared(found, Option)
    values = _values(found, {**hypers, **options})
    if as_json:
        about = {
            key: {"value": values[key], "domain": one.domain.name, "help": one.help} for key, one in hypers.items()
        }
        others = {key: {"value": values[key], "choices": one.choices, "help": one.help} for key, one in options.items()}
        return print_json({"name": name, "kind": kind, "description": _doc(found).strip(), "hyperparameters": about,
                           "options": others})  # fmt: skip
    out = console()
    out.print(f"{name}, a {kind}", style="bold", markup=False)
    out.print(_doc(found), markup=False)
    if kind == "strategy":
        out.print(_kind(found), markup=False)
        if hypers:
            out.print(_hypers(hypers, values), markup=True)
    if hypers and options:
        out.print()
    if options:
        out.print(_options(options, values), markup=True)
    if not hypers and not options:
        out.print("It has no settings.")
    first = next((name for name in [*hypers, *options] if values[name] != ""), None)
    out.print(_example(name, kind, first, values.get(first or "")), style="dim", markup=False)


def _values(found: type, settings: dict[str, Any]) -> dict[str, Any]:
    """The default of each setting; for a trained strategy its trained value."""
    if not _is_trained(found):
        return {name: setting.default for name, setting in settings.items()}
    made = found()
    values = {name: getattr(made, name) for name in settings}
    return {name: float(v.detach()) if hasattr(v, "detach") else v for name, v in values.items()}


def _is_trained(found: type) -> bool:
    from ..stacks.exported import Trained

    return issubclass(found, Trained)


def _doc(plugin: type) -> str:
    return inspect.cleandoc(plugin.__dict__.get("__doc__") or "") + "\n"


def _kind(strategy: Any) -> str:
    from ..levels.notices import WITHOUT

    gradients = "gradients and losses" if strategy.reads_loss else "gradients"
    reads = gradients if strategy.order else "losses only (zero-order)"
    state = "trained" if _is_trained(strategy) else "to be trained"
    learned = f"; its weights are meta-parameters, {state}" if strategy.learned else ""
    lines = [f"Reads {reads}{learned}."]
    for place, settings in (("its level", strategy.level), ("a level that moves it", strategy.above)):
        if told := [f"{key} {value}" for key, value in settings.items() if key != WITHOUT]:
            lines.append(f"Defaults of {place}: {', '.join(told)}.")
    return "\n".join(lines) + "\n"


def _within(domain: Domain) -> str:
    from ..toolkit.discrete import Choice, Whole

    if isinstance(domain, Whole):
        return f"{domain.least:,} to {domain.most:,}"
    if isinstance(domain, Choice):
        return f"those of {domain.option}" if domain.option else ", ".join(domain.words)
    return {"positive": "above 0", "unit": "0 to 1", "real": "any"}[domain.name]


def _hypers(hypers: dict[str, Any], values: dict[str, Any]) -> Any:
    rows = table("hyperparameter", "default", "domain", "", right=(1,), wrap=(3,))
    for name, hyper in hypers.items():
        domain = _within(hyper.domain)
        off = f", or {hyper.off:g}" if hyper.off is not None else ""
        above = "" if hyper.above is None else f"; {hyper.above:g} where it moves logarithms of hyperparameters"
        value = values[name] if isinstance(values[name], str) else f"{values[name]:g}"
        rows.add_row(f"[bold]{name}[/]", value or "the first", f"{hyper.domain.name} ({domain}{off})",
                     escape(hyper.help + above))  # fmt: skip
    return rows


def _options(options: dict[str, Any], values: dict[str, Any]) -> Any:
    rows = table("option", "default", "values", "", right=(1,), wrap=(2, 3))
    for name, option in options.items():
        known = ", ".join(map(str, option.choices)) if option.choices else _type(option.default)
        rows.add_row(f"[bold]{name}[/]", escape(_word(values[name])), escape(known), escape(option.help))
    return rows


def _type(value: object) -> str:
    names = {bool: "true or false", int: "whole number", float: "number", str: "word", tuple: "list"}
    return names.get(type(value), "")


def _word(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_word, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _example(name: str, kind: str, first: str | None, default: object) -> str:
    value = f"{default:g}" if isinstance(default, float) else _word(default)
    path = Path(name)
    if kind == "strategy" and (len(path.parts) > 1 or path.is_dir()):  # stack notation has no paths
        where = f" --plugins {shlex.quote(str(path.parent))}" if len(path.parts) > 1 else ""
        return f"\nrecopt run digits {path.stem if path.suffix else path.name}{where}"
    text = f"'{name}({first}={value})'" if first else name
    return f"\nrecopt run digits {text}" if kind == "strategy" else f"\nrecopt run {text} adam"


@click.command()
@click.argument("plugin", shell_complete=complete_plugin)
@PLUGINS
def check(plugin: str, plugins: tuple[str, ...]) -> int:
    """Check PLUGIN, the name or file of a strategy or task, against the contract.

    The exit status is 0 if it conforms, 1 if not.
    """
    from ..stacks.plugin_file import source_of
    from ..stacks.plugins import load_any

    kind, found = load_any(plugin, plugins)
    source = source_of(found)[1]
    from ..testing import RULES, check_task
    from ..testing import check as check_strategy
    from ..testing.tasks import TASK_RULES

    if kind == "strategy":
        findings, count = check_strategy(found, source), len(RULES) + 1
    else:
        findings, count = check_task(found), len(TASK_RULES)
    if not findings:
        click.echo(f"{plugin} conforms: {count} properties of a {kind} hold.")
        return 0
    click.echo(f"{plugin} does not conform:")
    for finding in findings:
        click.echo(f"  {finding}")
    return 1
