"""``recopt compare``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ..checking.errors import RecoptError, unknown
from .compare_report import report, report_series
from .completion import complete_baselines, complete_stack, complete_task
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
from .tables import print_json

if TYPE_CHECKING:
    from ..comparison import CompareSpec, Comparison, Planned, Series

_STOPPED = "Stopped. Nothing of it is recorded, so the same command begins again."
_GO_ON = "Stopped. What is done is kept. Go on by: recopt compare --resume"


@click.command()
@click.argument("task", required=False, shell_complete=complete_task)
@click.argument("stacks", metavar="STACK...", nargs=-1, shell_complete=complete_stack)
@SPEC
@click.option("--steps", type=click.IntRange(1), help="Updates of each task (100).")
@click.option("--seeds", type=click.IntRange(2), help="Number of test tasks (100).")
@click.option("--seed", type=click.IntRange(0, 999), help="Selects the tasks (0).")
@click.option("--baselines", metavar="NAME,…", shell_complete=complete_baselines,
              help="Rules to tune (sgd,nesterov,rmsprop,adam,adamw), or none; "
              "'adam[lr]' tunes only the rate.")  # fmt: skip
@click.option("--tune", type=click.IntRange(1), metavar="TRIALS", help="Trials of each baseline (40).")
@click.option("--tune-tasks", type=click.IntRange(1), metavar="N", help="Tasks to score each trial on (32).")
@click.option("--budget", type=click.Choice(["steps", "evaluations"]),
              help="What --steps counts: updates (default), or evaluations, those of trials included.")  # fmt: skip
@click.option("--measure", type=click.Choice(["sum", "final"]),
              help="Score to compare and tune for: the sum of the losses (default), or the last loss.")  # fmt: skip
@click.option("--trained", "trained", multiple=True, metavar="STACK=EVALUATIONS",
              help="Cost of a stack's meta-training; may be repeated.")  # fmt: skip
@click.option("--guards/--no-guards", default=None, help="Turn the engine's guards on for all competitors (off).")
@PLUGINS
@executed
@DEVICE
@DTYPE
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write tables, curves and the picture into a folder.")  # fmt: skip
@STORE
@click.option("--resume", metavar="RUN", help="Go on with a comparison, by its id, the beginning of it, or its name.")
@NAME
@NO_TRACK
@JSON
def compare(
    spec: Path | None, executor: str | None, workers: int | None, address: str | None, threads: int | None,
    output: Path | None, store: str | None, resume: str | None, name: str | None, no_track: bool, as_json: bool,
    **what: Any,
) -> int:  # fmt: skip
    """Compare each STACK with tuned baselines on the same tasks, from the same starts, with the same batches.

    TASK and STACK are as for recopt run; a STACK may also be a folder that recopt export wrote.

    Every baseline is tuned by the same number of trials, on tasks that are not used for the comparison.
    """
    refuse_torchrun("compare")
    asked = {"spec": spec, "name": name, **what}
    begun, run = _resumed(resume, store, no_track, asked) if resume is not None else (None, None)
    planned, single = ([begun], True) if begun else _planned(spec, what)
    from ..comparison import Stopped, Trainer, run_comparison
    from ..search.executors import make_executor

    _empty(output)
    trainer = Trainer(store, not no_track)  # shared by all, so that nothing is trained twice
    cost = iter([cost_words([one.spec for one in planned])])  # told once, when nothing refuses to begin

    def carry_out(one: Planned) -> Comparison:
        below = output / one.folder if output is not None and not single else output
        with progress_bar(ComparisonOutlook(one.spec), cost) as show:
            called = name or (None if single else one.name)
            return run_comparison(one.spec, doing, output=below, store=store, track=not no_track, name=called,
                                  trainer=trainer, progress=show, resume=run)  # fmt: skip

    status = 0
    try:
        with make_executor(executor, workers, address, threads) as doing:
            if single:
                found = carry_out(planned[0])
                print_json(found.plain()) if as_json else report(found, store)
                status = 1 if found.left_out else 0
            else:
                status = _series(planned, carry_out, output, store, as_json)
    except KeyboardInterrupt as why:
        run = why.run_id if isinstance(why, Stopped) else None
        click.echo(f"{_GO_ON} {run}{store_words(store)}" if run else _STOPPED, err=True)
        return 130
    return status


def _resumed(ref: str, store: str | None, no_track: bool, given: dict[str, Any]) -> tuple[Planned, str]:
    from ..comparison import Planned, resumed

    if odd := [key for key, value in given.items() if value not in (None, ())]:
        shown = {"task": "TASK", "stacks": "STACK"}.get(odd[0], f"--{odd[0].replace('_', '-')}")
        raise RecoptError(f"--resume goes on with a comparison unchanged: leave {shown} out.")
    if no_track:
        raise RecoptError("A comparison that is not recorded cannot go on: leave --no-track out.")
    spec, run = resumed(ref, store)
    return Planned("", spec), run


def _series(
    planned: list[Planned], carry_out: Callable[[Planned], Comparison], output: Path | None, store: str | None,
    as_json: bool,
) -> int:  # fmt: skip
    """Carry out several comparisons, and print each and the table of all; 1 if a competitor was left out."""
    from ..comparison import run_series, save_series

    results, lost = dict[str, Any](), set[str]()

    def done(one: Planned, found: Comparison | str, series: Series) -> None:
        lost.update({} if isinstance(found, str) else found.left_out)
        results[one.name] = found if isinstance(found, str) else found.plain()
        if not as_json:
            report(found, store, one.name)
        if output is not None:  # after each comparison, so that a later failure loses nothing
            save_series(series, output)

    series = run_series(planned, carry_out, done)
    if as_json:
        print_json(results)
    else:
        report_series(series, output)
    return 1 if lost else 0


def _empty(output: Path | None) -> None:
    found = set(output.iterdir()) if output is not None and output.exists() else set[Path]()
    if found and not {"comparison.json", "series.csv"} & {path.name for path in found}:
        raise RecoptError(f"{output} has other things in it: name a folder that is empty or does not exist.")


def _planned(file: Path | None, what: dict[str, Any]) -> tuple[list[Planned], bool]:
    """The comparisons to run, and whether it is a single one."""
    task, stacks, trained = what.pop("task"), what.pop("stacks"), what.pop("trained")
    if task is None and file is None:
        raise RecoptError(
            "Give a task and stacks, as in: recopt compare quadratic 'adam/hypergradient'; or --spec FILE."
        )
    if task is not None:
        in_order(task, stacks, what["plugins"], "compare")
    from ..comparison import EACH, Planned, make_compare_spec, plan_series, read_compare_spec
    from ..levels.notation import split
    from ..running.plan import task_named

    data = read_compare_spec(file) if file is not None else {}
    baselines = what.pop("baselines")
    what["plugins"] = list(what["plugins"]) or None
    over = {key: value for key, value in what.items() if value is not None}
    if baselines is not None:
        over["baselines"] = [] if baselines == "none" else [one.strip() for one in split(baselines)]
    if task is not None:
        over["task"] = task_named(task).model_dump()
    if stacks:
        over["stacks"] = [{"stack": stack} for stack in stacks]
    where = str(file) if file is not None else "what was given"
    if EACH not in data:
        return [Planned("", _with_trained(make_compare_spec({**data, **over}, where), trained))], True
    return [Planned(name, _with_trained(one, trained)) for name, one in plan_series(data, where, over)], False


def _with_trained(spec: CompareSpec, given: tuple[str, ...]) -> CompareSpec:
    """The spec with the costs of ``--trained STACK=EVALUATIONS``."""
    stacks = list(spec.stacks)
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            count = int(float(number))
        except (ValueError, OverflowError):
            count = -1
        if not name or count < 0:
            raise RecoptError(f"--trained '{text}' should read STACK=EVALUATIONS, as in: --trained lstm=2e6.")
        at = [n for n, one in enumerate(stacks) if name in (one.name, one.stack)]
        if not at:
            raise unknown("stack", name, [one.name or one.stack or "" for one in stacks], f"in --trained '{text}'")
        stacks[at[0]] = stacks[at[0]].model_copy(update={"trained": count})
    return spec.model_copy(update={"stacks": stacks})
