"""``recopt run`` and ``recopt graph``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from ..checking.errors import RecoptError
from .completion import complete_run, complete_setting, complete_stack, complete_task
from .options import DEVICE, DTYPE, JSON, NAME, NO_TRACK, PLUGINS, SPEC, STORE, in_order, under_torchrun
from .tables import console, print_json, report, result_facts, resume_words

if TYPE_CHECKING:
    from ..ranks.link import Link
    from ..running.plan import Plan
    from ..running.session import Session

Command = Callable[..., Any]


class _Depth(click.IntRange):
    """A number of levels, or ``auto``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == AUTO else super().convert(value, param, ctx)


AUTO = "auto"
_REPEAT = "Repeat the stack's last strategy up to this depth; settings of level 1 are not repeated."
DEPTH = click.option("--depth", type=click.IntRange(1), help=_REPEAT)
DEPTH_OR_AUTO = click.option("--depth", type=_Depth(1), metavar="N|auto", help=f"{_REPEAT} auto: begin with one level, "
                             "and add the next as long as short paired probes say that it pays.")  # fmt: skip
WHAT: list[Callable[[Command], Command]] = [
    click.argument("task", required=False, shell_complete=complete_task),
    click.argument("stack", required=False, shell_complete=complete_stack),
    click.option("--steps", type=click.IntRange(1), help="Updates of the task (1,000)."),
    click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of everything random in the run (0)."),
    click.option("--tasks", type=click.IntRange(1, 1_000_000),
                 help="Tasks to train side by side, with the same strategies (1)."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", shell_complete=complete_setting,
                 help="A setting: level2.every=20, adam.lr=0.1, task.batch_size=64 …; may be repeated."),
    SPEC, PLUGINS, DEVICE, DTYPE,
]  # fmt: skip


def run_options(command: Command, depth: Callable[[Command], Command] = DEPTH) -> Command:
    """Add the arguments and options that say what is run, ``depth`` among them."""
    for add in reversed([*WHAT[:2], depth, *WHAT[2:]]):
        command = add(command)
    return command


def _number(_: click.Context, __: click.Parameter, value: float) -> float:
    if math.isnan(value):  # nan passes every range check
        raise click.BadParameter("it should be a number of seconds, not nan.")
    return value


@click.command()
@partial(run_options, depth=DEPTH_OR_AUTO)
@click.option("--measure", type=click.IntRange(0), metavar="N",
              help="Steps between two measurements on held-out data; 0 measures only at both ends.")  # fmt: skip
@click.option("--until", metavar="BOUND", help="End early at a bound on a measurement: 'accuracy>0.97', 'loss<0.1'.")
@click.option("--patience", type=click.IntRange(1), metavar="N",
              help="End after N measurements in a row without a lower held-out loss.")  # fmt: skip
@click.option("--choose", metavar="NAME=VALUE,…", help="Export the values that score best on fresh tasks: "
              "every=500,tasks=64,steps=100,objective=sum,patience=5.")  # fmt: skip
@click.option("--replay", metavar="RUN", shell_complete=complete_run,
              help="Take hyperparameters as they went in RUN, step by step, instead of searching for them; what is not "
              "given, TASK and STACK too, is as it was in RUN.")  # fmt: skip
@click.option("--stretch", is_flag=True, default=None, help="With --replay: stretch its schedule to this run's steps.")
@STORE
@click.option("--resume", metavar="RUN", shell_complete=complete_run,
              help="Resume a run, by its id, the beginning of its id, or its name.")  # fmt: skip
@click.option("--previous", is_flag=True, help="With --resume: go on from the checkpoint before the last one.")
@NAME
@NO_TRACK
@click.option("--tracker", "trackers", multiple=True, type=click.Choice(["jsonl", "tensorboard", "wandb"]),
              help="Also record the run so, in its folder (wandb offline); may be repeated.")  # fmt: skip
@click.option("--save-every", type=click.FloatRange(0), default=15.0, show_default=True, metavar="SECONDS",
              callback=_number, help="Seconds between two checkpoints.")  # fmt: skip
@click.option("--rank-timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True,
              callback=_number, metavar="SECONDS", help="Under torchrun: how long to wait for others.")  # fmt: skip
@JSON
def run(rank_timeout: float, **how: Any) -> int:
    """Train TASK with STACK, a stack of strategies, innermost first.

    TASK is a name (see recopt tasks) with options in brackets, as 'digits(net=cnn)', or a file, my_task.py.

    STACK reads like adam/hypergradient/annealing, or 'adam(lr=1e-3)/sgd(lr=1e-2)': the second strategy moves the
    hyperparameters of the first, the third those of the second. 'adam[*weight]+sgd[*bias]' uses one strategy for each
    group of parameters; lstm/self moves its own weights.

    Under torchrun the tasks of --tasks are divided among its processes.
    """
    if not under_torchrun():
        return _run(None, **how)
    from ..ranks.torchrun import together

    with together(rank_timeout) as link:
        return _run(link, **how)


def _run(
    link: Link | None, resume: str | None, previous: bool, store: str | None, name: str | None, no_track: bool,
    save_every: float, trackers: tuple[str, ...], as_json: bool, **what: Any,
) -> int:  # fmt: skip
    """Run, as one of the processes of ``link`` under torchrun, of which the first has a voice."""
    _refuse_changes(resume, previous, name, no_track, what)
    if what["depth"] == AUTO:
        what = _deep_enough(link, what, store=store, track=not no_track)
    if link and (earlier := link.earlier_run()):  # the processes were started again
        resume, previous = earlier, False
    made, run_id = (
        (_planned({**what, "store": store}), None) if resume is None else _resumed(link, resume, previous, store, what)
    )
    from ..running.progress import Live
    from ..running.ranks import ranks_of
    from ..running.session import RunOptions, Session

    ranks = ranks_of(link, made)
    if ranks.rank:
        warnings.simplefilter("ignore")
    with nullcontext() if ranks.rank else Live(lines=True) as live:
        options = RunOptions(
            store=store, track=not no_track, name=name, resume=run_id, save_seconds=save_every,
            trackers=() if ranks.rank else trackers, progress=live.show if live else None, ranks=ranks,
        )  # fmt: skip
        session = Session(made, options)
        if live:
            live.begin(session)
        try:
            result = session.run()
        except KeyboardInterrupt:
            if link or not live:
                raise
            live.stop()
            click.echo(_stopped_at_once(session, store), err=True)
            return 130
    if as_json and not ranks.rank:
        print_json(result_facts(result))
    elif not ranks.rank:
        report(result, store)
    return {"finished": 0, "interrupted": 130}.get(result.outcome, 1)


def _deep_enough(link: Link | None, what: dict[str, Any], **how: Any) -> dict[str, Any]:
    """The options of a run with the levels that pay, in the place of --depth auto."""
    task, stack = what["task"], what["stack"]
    if link or task is None or stack is None or what["spec"] is not None or what["replay"] is not None:
        raise RecoptError("--depth auto probes STACK on TASK in one process: give both, without --spec, --replay and "
                          "torchrun, or a number.")  # fmt: skip
    in_order(task, [stack], what["plugins"], "run")
    from ..comparison.deep_enough import deep_enough
    from ..running.plan import task_named

    how |= {key: what[key] for key in ("device", "dtype", "plugins") if what[key]}
    steps = {} if what["steps"] is None else {"steps": what["steps"]}
    found = deep_enough(task_named(task).model_dump(), stack, **steps, settings=list(what["settings"]),
                        told=partial(click.echo, err=True), **how)  # fmt: skip
    click.echo(f"So the run is of {found.stack} (the probes took {found.evaluations:,} evaluations besides).", err=True)
    return {**what, "stack": found.stack, "settings": tuple(found.settings), "depth": None}


def _stopped_at_once(session: Session, store: str | None) -> str:
    run = session.recorder.run_id
    if run is None:
        return "Stopped."
    return f"Stopped at once; resume from the last checkpoint with: {resume_words(run, store)}"


@click.command()
@run_options
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Draw into FILE.svg or FILE.png instead.")  # fmt: skip
def graph(output: Path | None, **what: Any) -> None:
    """Draw the graph of levels without running it. TASK and STACK are as for recopt run."""
    if output is not None and output.suffix not in (".svg", ".png"):
        raise RecoptError(f"A graph is drawn to .svg or .png, not '{output.name}': change the ending.")
    made = _planned(what, "graph")
    from ..plots.diagram import draw_file, draw_text
    from ..running.start import make_engine

    make_engine(made.spec, made.graph, made.task)  # refuses a graph that does not fit the task
    if output is None:
        click.echo(draw_text(made.graph, made.spec.task.name, console().width))
        return
    try:
        draw_file(made.graph, output, made.spec.task.name)
    except OSError as why:
        raise RecoptError(
            f"The picture cannot be written to {output} ({why.strerror}): choose another place."
        ) from None
    click.echo(f"{output}")


def _planned(what: dict[str, Any], command: str = "run") -> Plan:
    spec, task, stack = what.pop("spec"), what["task"], what["stack"]
    given = spec is not None or what.get("replay") is not None
    if task is not None and stack is None and not given:
        in_order(task, [], what["plugins"], command)
        raise RecoptError(f"What is to train '{task}'? Give a stack too, as in: recopt run {task} adam/hypergradient.")
    if not given and task is None:
        raise RecoptError("Give a task and a stack, as in: recopt run digits adam/hypergradient; or --spec FILE.yaml.")
    if task is not None and stack is not None:
        in_order(task, [stack], what["plugins"], command)
    from ..running.plan import replan
    from ..running.relocated import relocated
    from ..running.spec import read_spec

    what["plugins"] = list(what["plugins"]) or None
    if spec is None:
        return replan({}, where="the options", **what)
    return replan(relocated(read_spec(spec), spec.parent), where=str(spec), **what)


def _refuse_changes(
    resume: str | None, previous: bool, name: str | None, no_track: bool, what: dict[str, Any]
) -> None:  # fmt: skip
    """Refuse what --resume cannot change."""
    if resume is None:
        if previous:
            raise RecoptError("--previous is for a run that is resumed: give --resume RUN too.")
        return
    given = [key for key, value in what.items() if value not in (None, ()) and key not in ("steps", "device")]
    given += ["name"] * (name is not None) + ["no-track"] * no_track
    if given:
        shown = {"task": "TASK", "stack": "STACK", "settings": "--set"}.get(given[0], f"--{given[0]}")
        raise RecoptError(f"--resume continues a run unchanged: leave {shown} out (--steps and --device may be given).")


def _resumed(
    link: Link | None, ref: str, previous: bool, store: str | None, what: dict[str, Any]
) -> tuple[Plan, str]:  # fmt: skip
    """The plan of a recorded run, with more steps if given, and the run's id."""
    from ..running.plan import replan

    found: Any = None if link and link.rank else _found(ref, previous, store, what["steps"])
    run, data, steps = link.from_first(found) if link else found
    return replan(data, where=f"the spec of run {run}", steps=steps, device=what["device"]), run


def _found(ref: str, previous: bool, store: str | None, steps: int | None) -> tuple[str, dict[str, Any], int]:
    """The id of a recorded run, its spec, and the steps that it is to have done."""
    from ..running.checkpoints import go_back, step_in
    from ..running.relocated import relocated
    from ..running.spec import read_spec
    from ..tracking.mlflow.runs import find_single, working_folder

    found = find_single(store, ref)
    folder = working_folder(found, store)
    if previous:
        go_back(folder)
    step = step_in(folder)
    data = relocated(read_spec(folder / "spec.yaml"), folder)
    steps = steps or data.get("steps", 0)
    if step > steps or (step == steps and found.status == "FINISHED"):  # otherwise its end is still to be done
        raise RecoptError(f"Run {found.id} has done its {step:,} steps: give a larger --steps to go on.")
    return found.id, data, steps
