"""``recopt sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.markup import escape
from rich.table import Table

from ..checking.errors import RecoptError
from ..checking.numbers import short, span
from .options import JSON, NAME, NO_TRACK, STORE, executed, refuse_torchrun, store_words
from .progress_bar import Outlook, progress_bar
from .run import run_options
from .tables import console, print_json, table

if TYPE_CHECKING:
    from ..sweeps import Sweep, SweepPlan, SweptTrial

_SHOWN = 10
"""The number of trials that the table shows."""
_ENDINGS = (".yaml", ".yml")


@click.command()
@run_options
@click.option("--over", multiple=True, metavar="NAME=VALUES", help="A setting to search over: adam.lr=1e-4..1, "
              "task.batch_size=8..128, 'level2.every=1..100 in 5', 'stack=[adam, sgd]', or adam.lr for its usual range;"
              " may be repeated.")  # fmt: skip
@click.option(
    "--by", metavar="SEARCH", help="grid, random, or a zero-order strategy like 'annealing(step=2)' (random)."
)
@click.option("--trials", type=click.IntRange(1), help="Settings to try (40; all of a grid).")
@click.option(
    "--repeat", type=click.IntRange(1, 1000), metavar="N", help="Runs of each trial, each with its own seed (1)."
)
@click.option(
    "--score", metavar="NAME", help="What decides, on held-out data: loss, the task's metric, steps … (loss)."
)
@click.option("--asha", is_flag=False, flag_value="", metavar="NAME=VALUE,…",
              help="Stop trials early that are behind: eta=3,first=50,at_once=16.")  # fmt: skip
@click.option("--measure", type=click.IntRange(0), metavar="N", help="Steps between two measurements on held-out data.")
@click.option("--choose", metavar="NAME=VALUE,…", help="As for recopt run; --score choose_score decides by it.")
@executed
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Write the tables and the picture into a folder.")  # fmt: skip
@STORE
@click.option("--resume", metavar="RUN", help="Go on with a sweep, by its id, the beginning of its id, or its name.")
@NAME
@NO_TRACK
@JSON
def sweep(
    executor: str | None, workers: int | None, address: str | None, threads: int | None, output: Path | None,
    store: str | None, resume: str | None, name: str | None, no_track: bool, as_json: bool, **given: Any,
) -> int:  # fmt: skip
    """Try TASK with STACK and many settings, or what a spec FILE.yaml says.

    TASK and STACK are as for recopt run. Every trial is an ordinary run; the table shows the best, and best.yaml in the
    folder of the sweep repeats it.
    """
    refuse_torchrun("sweep")
    plan, run_id = _resumed(resume, store, no_track, given) if resume is not None else (_planned(given), None)
    from ..search.executors import make_executor
    from ..sweeps import run_sweep

    with make_executor(executor, workers, address, threads) as made, progress_bar(Outlook()) as show:
        found = run_sweep(plan, made, output=output, store=store, track=not no_track, name=name, resume=run_id,
                          progress=show)  # fmt: skip
    print_json(found.plain()) if as_json else _report(found, store)
    if found.status == "KILLED":
        return 130
    return 0 if len(found.failed) < len(found.trials) else 1


def _planned(given: dict[str, Any]) -> SweepPlan:
    from ..sweeps import make_sweep_spec, plan_sweep, read_sweep_spec

    file: Path | None = given.pop("spec")
    if file is None and given["stack"] is None and str(given["task"]).endswith(_ENDINGS):
        file, given["task"] = Path(given["task"]), None
    if file is None and given["task"] is None:
        raise RecoptError(
            "Give a task, a stack and what to search, as in: recopt sweep digits adam --over adam.lr; or FILE.yaml."
        )
    data = read_sweep_spec(file) if file is not None else {}
    asha = given.pop("asha")
    if asha is not None:
        data["asha"] = asha
    over, extra = dict(_over(text) for text in given.pop("over")), given.pop("settings")
    if over:
        data["over"] = {**(data["over"] if isinstance(data.get("over"), dict) else {}), **over}
    if given["stack"] is not None:
        data = {key: value for key, value in data.items() if key not in ("strategies", "levels", "settings")}
    data |= {key: value for key, value in given.items() if value is not None and value != ()}
    if extra:
        data["settings"] = [*(data.get("settings") or []), *extra]
    where = str(file) if file is not None else "what was given"
    return plan_sweep(make_sweep_spec(data, where), where)


def _over(text: str) -> tuple[str, object]:
    """The name and the values in ``NAME=VALUES``."""
    from ..levels.notation import split, value_of

    name, equals, values = (part.strip() for part in text.partition("="))
    if equals and not values:
        raise RecoptError(f"'--over {text}' should read NAME=VALUES, like adam.lr=1e-4..1.")
    if values.startswith("[") and values.endswith("]"):  # stacks have commas of their own
        return name, [value_of(one) for one in split(values[1:-1])]
    return name, values or None


def _resumed(
    ref: str, store: str | None, no_track: bool, given: dict[str, Any]
) -> tuple[SweepPlan, str]:  # fmt: skip
    from ..sweeps import resumed

    if odd := [key for key, value in given.items() if value not in (None, ())]:
        shown = {"task": "TASK", "stack": "STACK", "settings": "--set"}.get(odd[0], f"--{odd[0]}")
        raise RecoptError(f"--resume goes on with a sweep unchanged: leave {shown} out.")
    if no_track:
        raise RecoptError("A sweep that is not recorded cannot go on: leave --no-track out.")
    return resumed(ref, store)


def _report(found: Sweep, store: str | None) -> None:
    """Print the best trials, what was saved, and where it all is."""
    out, spec, first = console(), found.plan.spec, found.plan.first
    how = f"{len(found.trials):,} trials by {spec.by}, {first.spec.steps:,} steps"
    how += ", interrupted" if found.status == "KILLED" else ""
    out.print(f"{Path(first.spec.task.name).name}  {how}", style="bold", markup=False)
    where = "the greatest is best" if found.plan.sign < 0 else "the least is best"
    out.print(f"{spec.score}, on held-out data; {where}\n" if spec.score in ("loss", first.task.metric)
              else f"{spec.score}; {where}\n", markup=False)  # fmt: skip
    out.print(_table(found))
    out.print()
    for line in _words(found, store):
        out.print(line, markup=False, soft_wrap=True)


def _table(found: Sweep) -> Table:
    names = [axis.name for axis in found.plan.axes]
    metric = found.plan.first.task.metric or "loss"
    heads = ("trial", *names, found.plan.spec.score, *(["±"] if found.plan.spec.repeat > 1 else []), f"test {metric}",
             "steps", "outcome")  # fmt: skip
    rows = table(*map(escape, heads), right=tuple(range(len(heads) - 1)))
    for one in found.ranked[:_SHOWN]:
        rows.add_row(*_cells(one, names, metric, found.plan.spec.repeat > 1))
    return rows


def _cells(one: SweptTrial, names: list[str], metric: str, spread: bool) -> list[str]:
    from ..sweeps.result import value_words

    values = [escape(value_words(one.settings[name])) if name in one.settings else "" for name in names]
    colour = {"failed": "red", "diverged": "red", "frozen": "red", "finished": "green"}.get(one.outcome, "yellow")
    return [
        str(one.number), *values, short(one.score), *([short(one.spread)] if spread else []),
        short(one.test[metric]) if metric in one.test else "", f"{one.step:,}", f"[{colour}]{one.outcome}[/]",
    ]  # fmt: skip


def _words(found: Sweep, store: str | None) -> list[str]:
    spec, lines = found.plan.spec, list[str]()
    if len(found.trials) > _SHOWN:
        lines.append(f"The best {_SHOWN} of {len(found.trials):,} are shown.")
    if spec.trials and len(found.trials) < spec.trials:
        lines.append(f"There are no more than {len(found.trials):,} different settings, of {spec.trials:,} asked for.")
    if spec.asha:
        rungs = ", ".join(f"{steps:,}" for steps in found.plan.rungs)
        lines.append(f"Stopping early at {rungs} saved {found.saved:.0%}: {found.made:,} of {found.whole:,} updates.")
    for one in found.failed[:3]:
        lines.append(f"Trial {one.number} failed: {one.reason}")
    if len(found.failed) > 3:
        lines.append(f"{len(found.failed):,} trials failed in all.")
    lines.append(f"The trials took {span(sum(one.seconds for one in found.trials))} of work.")
    lines += [""] if found.folder or found.run_id else []
    if found.folder:
        folder = found.folder.relative_to(Path.cwd()) if found.folder.is_relative_to(Path.cwd()) else found.folder
        lines += [f"folder  {folder}", f"picture {folder / 'sweep.png'}"]
        if (found.folder / "best.yaml").is_file():
            lines.append(f"repeat  recopt run --spec {folder / 'best.yaml'}")
        if (found.folder / "best").is_dir():
            lines.append(f"model   {folder / 'best'}")
    if found.run_id and found.status == "KILLED":
        lines.append(f"go on   recopt sweep --resume {found.run_id}{store_words(store)}")
    if found.run_id:
        lines += [f"run     {found.run_id}", f"browse  recopt ui{store_words(store)}"]
    return lines
