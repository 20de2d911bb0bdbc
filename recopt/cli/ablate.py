"""``recopt ablate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.markup import escape
from rich.table import Table

from ..checking.errors import RecoptError
from .compare_report import interval_words, places
from .completion import complete_run, complete_setting, complete_stack, complete_task
from .options import (
    DEVICE,
    DTYPE,
    JSON,
    NAME,
    NO_TRACK,
    PLUGINS,
    SPEC,
    STORE,
    executed,
    in_order,
    refuse_torchrun,
    store_words,
)
from .progress_bar import ComparisonOutlook, cost_words, progress_bar
from .tables import console, print_json, table

if TYPE_CHECKING:
    from ..comparison.ablate_spec import AblateSpec
    from ..comparison.ablation import Ablation, LevelFigures

_GO_ON = "Stopped. What is done is kept. Go on by: recopt ablate --resume"
_COLOURS = {"pays": "green", "steadies": "green", "harms": "red", "trades": "yellow"}


@click.command()
@click.argument("task", required=False, shell_complete=complete_task)
@click.argument("stack", required=False, shell_complete=complete_stack)
@SPEC
@click.option("--depth", type=click.IntRange(1), help="Repeat the stack's last strategy up to this depth.")
@click.option("--steps", type=click.IntRange(1), metavar="N",
              help="The budget of each run: evaluations of the task, those of trials included (500).")  # fmt: skip
@click.option("--seeds", type=click.IntRange(2), help="Number of tasks, 5 or more (10).")
@click.option("--seed", type=click.IntRange(0, 999), help="Selects the tasks (0).")
@click.option("--scales", metavar="X,…", help="Factors on start values, of each depth's two highest levels (0.1,10); "
              "none for none.")  # fmt: skip
@click.option("--measure", type=click.Choice(["sum", "final"]),
              help="Score: the sum of the losses (default), or the last loss.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", shell_complete=complete_setting,
              help="A setting of a level or strategy, as for recopt run; may be repeated.")  # fmt: skip
@click.option("--guards/--no-guards", default=None, help="Whether the engine's guards act, at each depth (on).")
@PLUGINS
@executed
@DEVICE
@DTYPE
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write tables, curves and the picture into a folder.")  # fmt: skip
@STORE
@click.option("--resume", metavar="RUN", shell_complete=complete_run,
              help="Go on with an ablation, by its id, the beginning of it, or its name.")  # fmt: skip
@NAME
@NO_TRACK
@JSON
def ablate(
    executor: str | None, workers: int | None, address: str | None, threads: int | None, output: Path | None,
    store: str | None, resume: str | None, name: str | None, no_track: bool, as_json: bool, **what: Any,
) -> int:  # fmt: skip
    """Tell whether each level of STACK pays on TASK: the stack cut off at every depth, at equal budget, paired seeds.

    A level pays if scores are lower with it, or if start values that are wrong matter less with it. TASK and STACK are
    as for recopt run.
    """
    refuse_torchrun("ablate")
    spec, run = (_planned(what), None) if resume is None else _resumed(resume, store, no_track, what)
    from ..comparison import Stopped
    from ..comparison.ablate import run_ablation
    from ..search.executors import make_executor

    cost = iter([cost_words([spec]).replace("--steps, --tune and --tune-tasks", "--steps and --scales")])
    try:
        with make_executor(executor, workers, address, threads) as doing, \
                progress_bar(ComparisonOutlook(spec), cost) as show:  # fmt: skip
            found = run_ablation(spec, doing, output=output, store=store, track=not no_track, name=name,
                                 progress=show, resume=run)  # fmt: skip
    except KeyboardInterrupt as why:
        run = why.run_id if isinstance(why, Stopped) else None
        click.echo(f"{_GO_ON} {run}{store_words(store)}" if run else "Stopped.", err=True)
        return 130
    print_json(found.plain()) if as_json else _report(found, store)
    return 0


def _planned(what: dict[str, Any]) -> AblateSpec:
    file: Path | None = what.pop("spec")
    task, stack, depth, scales = (what.pop(key) for key in ("task", "stack", "depth", "scales"))
    if file is None and (task is None or stack is None):
        raise RecoptError("Give a task and a stack, as in: recopt ablate digits adam/hypergradient/annealing.")
    if task is not None and stack is not None:
        in_order(task, [stack], what["plugins"], "ablate")
    from ..comparison.ablate_spec import make_ablate_spec
    from ..running.plan import task_named
    from ..running.spec import read_spec

    data = read_spec(file) if file is not None else {}
    data |= {key: list(value) if isinstance(value, tuple) else value
             for key, value in what.items() if value not in (None, ())}  # fmt: skip
    data |= {} if task is None else {"task": task_named(task).model_dump()}
    data |= {} if stack is None else {"stack": stack}
    data |= {} if scales is None else {"scales": [] if scales == "none" else scales.split(",")}
    return make_ablate_spec(data, str(file) if file is not None else "what was given", depth)


def _resumed(ref: str, store: str | None, no_track: bool, what: dict[str, Any]) -> tuple[AblateSpec, str]:
    from ..comparison.ablate import resumed_ablation

    if odd := [key for key, value in what.items() if value not in (None, ())]:
        shown = {"task": "TASK", "stack": "STACK", "settings": "--set"}.get(odd[0], f"--{odd[0]}")
        raise RecoptError(f"--resume goes on with an ablation unchanged: leave {shown} out.")
    if no_track:
        raise RecoptError("An ablation that is not recorded cannot go on: leave --no-track out.")
    return resumed_ablation(ref, store)


def _report(found: Ablation, store: str | None) -> None:
    """Print a line for each depth, a sentence for each level above the first, and where it all is."""
    out, spec = console(), found.spec
    out.print(f"{spec.task_text}  {spec.seeds:,} seeds, {spec.steps:,} evaluations each", style="bold", markup=False)
    what = "sum of the losses" if spec.measure == "sum" else "last loss"
    out.print(f"score: {what}; in brackets 95 % intervals (gains: of all levels together)\n", soft_wrap=True)
    out.print(_table(found))
    out.print()
    for line in [*found.notes, *places(found, store)]:
        out.print(line, markup=False, soft_wrap=True)


def _table(found: Ablation) -> Table:
    heads = ("stack", "score", "gain", "wrong starts", "pays from", "evaluations", "hypergradients", "seconds", "")
    rows = table(*heads, right=tuple(range(1, len(heads) - 1)))
    for one in found.levels:
        rows.add_row(
            escape(one.stack), interval_words(one.score), "" if one.gain is None else _gain(one),
            "" if one.spread is None else f"×{math.exp(one.spread.value):.3g}", _from(one), f"{one.evaluations:,.0f}",
            f"{one.hypergradients:,.0f}", f"{one.seconds:.2f}",
            f"[{_COLOURS.get(one.verdict, 'dim')}]{one.verdict}[/]" if one.verdict else "",
        )  # fmt: skip
    return rows


def _gain(one: LevelFigures) -> str:
    assert one.gain is not None
    value, low, high = (100 * -math.expm1(-end) for end in one.gain)
    return f"{value:+.3g} % ({low:+.3g} to {high:+.3g})"


def _from(one: LevelFigures) -> str:
    return "" if one.break_even is None else "never" if math.isinf(one.break_even) else f"{one.break_even:,.0f}"
