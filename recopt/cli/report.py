"""``recopt report``: recorded runs as a page."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..checking.errors import RecoptError
from .options import STORE


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
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
    from ..plots.page import PAGE, write_page
    from ..plots.run_view import read_run
    from ..tracking.mlflow.runs import find_run, working_folder

    views = []
    for ref in dict.fromkeys(runs):
        found = find_run(store, ref)
        folder = working_folder(found, store)
        if (folder / "comparison.json").is_file():
            raise RecoptError(f"'{ref}' is a comparison, which has a page of its own: {folder / PAGE}.")
        views.append(read_run(folder, found.name, found.status))
    if output is None:
        output = folder / PAGE if len(views) == 1 and found.folder is not None else Path(PAGE)
    click.echo(f"{write_page(views, output)}")
