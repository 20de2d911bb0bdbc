"""``recopt diff``, ``report``, ``why``, ``ui`` and ``export``: use recorded runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.markup import escape

from ..checking.errors import RecoptError, writing
from ..checking.numbers import short
from .completion import complete_run
from .options import JSON, STORE
from .tables import console, print_json, table, tell

if TYPE_CHECKING:
    from ..tracking.mlflow.runs import RunRow


@click.command()
@click.argument("one", metavar="RUN", shell_complete=complete_run)
@click.argument("other", metavar="RUN", shell_complete=complete_run)
@STORE
@JSON
def diff(one: str, other: str, store: str | None, as_json: bool) -> None:
    """Show in what two runs differ: settings first, then the figures that they ended with."""
    from ..tracking.mlflow.runs import find_run

    rows = [find_run(store, ref) for ref in (one, other)]
    settings, figures = ({key: [values.get(key) for values in both] for key in sorted({*both[0], *both[1]})}
                         for both in ([_settings(row) for row in rows], [row.metrics for row in rows]))  # fmt: skip
    changed = {key: pair for key, pair in {**settings, **figures}.items()
               if key != "seconds" and repr(pair[0]) != repr(pair[1])}  # fmt: skip
    if as_json:
        return print_json({"runs": [row.id for row in rows], "changed": changed})
    made = table("", *(f"{row.id[:8]} {escape(row.name)}" for row in rows), wrap=(1, 2))
    for key, pair in changed.items():
        made.add_row(key, *("" if x is None else escape(x) if isinstance(x, str) else short(x) for x in pair))
    console().print(made if changed else "The two runs have the same settings and figures.")


def _settings(row: RunRow) -> dict[str, str]:
    """The params of a run; a run that was resumed with more steps has these, which MLflow lets nobody correct."""
    steps = int(row.params.get("steps", 0))
    made = {"steps made": f"{row.step}"} if 0 < row.step < steps else {}
    return {**row.params, **({"steps": f"{row.step}"} if row.step > steps else {}), **made}


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.html",
              help="The page to write (report.html; for one run on this machine, in its folder).")  # fmt: skip
@STORE
def report(runs: tuple[str, ...], output: Path | None, store: str | None) -> None:
    """Write a page of each RUN, or of several beside each other, and print its place.

    The page shows losses, metrics, the graph, every hyperparameter's way with trials and guards, signals, costs and a
    diagnosis. It needs no network. A RUN is an id, the beginning of one, or a name; it may still go on.
    """
    if output is not None and output.suffix not in (".html", ".htm"):
        raise RecoptError(f"A report is written to .html, not '{output.name}': change the ending.")
    from ..diagnosis.view import read_run
    from ..plots.page import PAGE, write_page
    from ..tracking.mlflow.runs import find_run, working_folder

    views = []
    for ref in dict.fromkeys(runs):
        found = find_run(store, ref)
        folder = working_folder(found, store)
        if (folder / "comparison.json").is_file():
            raise RecoptError(f"'{ref}' is a comparison, which has a page of its own: {folder / PAGE}.")
        if found.kind == "sweep":
            raise RecoptError(f"'{ref}' is a sweep, which has a picture of its own: {folder / 'sweep.png'}.")
        views.append(read_run(folder, found.name, found.status))
    if output is None:
        output = folder / PAGE if len(views) == 1 and found.folder is not None else Path(PAGE)
    click.echo(f"{write_page(views, output)}")


@click.command()
@click.argument("run", metavar="RUN", shell_complete=complete_run)
@STORE
@JSON
def why(run: str, store: str | None, as_json: bool) -> None:
    """Tell what went wrong in RUN: at which level and step it began, by which figures, and what to change.

    RUN is an id, the beginning of one, or a name; it may still go on. A run that diverged or learned nothing says so at
    its end as well.
    """
    from ..diagnosis.remarks import remarks
    from ..diagnosis.verdicts import verdicts
    from ..diagnosis.view import read_run
    from ..diagnosis.windows import signal_tables
    from ..tracking.mlflow.runs import find_single, working_folder

    recorded = find_single(store, run)
    view = read_run(working_folder(recorded, store), recorded.name, recorded.status)
    faults = verdicts(view)
    if as_json:
        return print_json([asdict(one) for one in faults])
    out = console()
    out.print(f"{view.about.get('task', '')}  {view.about.get('stack', '')}", style="bold", markup=False)
    out.print(f"{view.status}, {view.about.get('steps', '')} steps")
    tell(faults)
    if not faults and view.status in ("finished", "running"):
        out.print("\nNothing went wrong, by what is recorded.")
    for _, heads, rows in signal_tables(view):
        made = table(*heads, right=tuple(range(2, len(heads))))
        for row in rows:
            made.add_row(*map(escape, row))
        out.print()
        out.print(made)
    for text in remarks(view):
        out.print(f"\n{text}", style="dim", markup=False, soft_wrap=True)


@click.command()
@click.argument("run", required=False, shell_complete=complete_run)
@STORE
@click.option("--port", type=click.IntRange(1, 65535), help="Port to serve on (the first free one from 5000).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--no-browser", is_flag=True, help="Only print the link.")
def ui(run: str | None, store: str | None, port: int | None, host: str, no_browser: bool) -> None:
    """Serve MLflow's pages of the runs until Ctrl-C, and open them, at RUN if given."""
    from ..tracking.mlflow.ui import ui as serve

    serve(store, host, port, run, say=click.echo, browser=not no_browser)


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@STORE
@click.option("--register", "model", metavar="NAME", help="Also register it as the next version of NAME in MLflow's "
              "model registry; recopt.Optimizer takes 'models:/NAME@ALIAS'.")  # fmt: skip
@click.option("--alias", metavar="ALIAS", help="Alias of that version, such as best; an existing alias is moved.")
@click.option("--no-model", is_flag=True, help="Export only the strategies and their card, not the trained model.")
def export(
    run: str, folder: Path, store: str | None, model: str | None, alias: str | None, no_model: bool
) -> None:  # fmt: skip
    """Export the strategies that RUN trained, and its model, into DIR for use in other programs.

    A DIR in ./strategies, or given with --plugins, is a strategy by its name. Complete its card.md, which has the facts
    that RUN recorded.
    """
    if alias is not None and model is None:
        raise RecoptError("'--alias' names a version of a registered model: give '--register NAME' too.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecoptError(f"{folder} is there already: name a folder that is empty or does not exist.")
    from ..engine.checkpoint import check
    from ..running.checkpoints import CHECKPOINT
    from ..tracking.mlflow.runs import check_name, fetch_run, find_single, register

    if model is not None:
        check_name(model, alias)
    found = find_single(store, run)
    source = fetch_run(found, store)
    check(source / CHECKPOINT)
    _export(source, folder, f"the spec of run {found.id}", not no_model)
    click.echo(f"{folder}")
    if model is not None:
        click.echo(register(folder, model, alias, run=found.id, store=store))


def _export(source: Path, folder: Path, where: str, model: bool) -> None:
    from ..engine.checkpoint import load
    from ..running.checkpoints import CHECKPOINT, TRACE
    from ..running.export import write_export
    from ..running.plan import replan
    from ..running.relocated import relocated
    from ..running.selection.selector import saved_selection
    from ..running.spec import read_spec
    from ..running.start import make_engine
    from ..tracking.trace import load_trace

    made = replan(relocated(read_spec(source / "spec.yaml"), source), where=where, device="cpu")
    engine = make_engine(made.spec, made.graph, made.task)
    selection = saved_selection(load(engine, source / CHECKPOINT), made.spec.choose, engine, made.task)
    trace = load_trace(source / TRACE, made.spec.steps) if (source / TRACE).is_file() else None
    with writing(folder):
        write_export(engine, made.spec, folder, trace, selection, model=model)
