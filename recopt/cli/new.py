"""``recopt new``: templates for plugins."""

from __future__ import annotations

import re
from pathlib import Path

import rich_click as click

from ..checking.errors import RecoptError, shown, writing

TEMPLATES = Path(__file__).parent / "templates"


@click.group()
def new() -> None:
    """Write the template of a task or strategy, which already runs."""


@new.command()
@click.argument("name")
def task(name: str) -> None:
    """Write NAME.py, a task of your own: a model, its data, its loss."""
    path = write_template("task", name, Path())
    click.echo(f"{path}\n\nrecopt run {path} adam\nrecopt check {path}")


@new.command()
@click.argument("name")
def strategy(name: str) -> None:
    """Write strategies/NAME.py, a strategy of your own: an update rule with hyperparameters."""
    path = write_template("strategy", name, Path("strategies"))
    click.echo(f"{path}\n\nrecopt run digits {path.stem}\nrecopt check {path}")


def write_template(kind: str, name: str, folder: Path) -> Path:
    """Write the template of ``kind`` as ``name``, which may have a folder and ``.py``.

    Raises:
        RecoptError: if the name is not valid for a plugin, leads out of this folder, or the file exists already.
    """
    given = Path(name)
    stem = given.stem if given.suffix == ".py" else given.name
    stem = stem.replace("-", "_")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", stem):
        raise RecoptError(
            f"'{shown(name)}' cannot be the name of a {kind}: use letters, digits and '_', a letter first."
        )
    path = (given.parent if given.parent != Path() or given.suffix == ".py" else folder) / f"{stem}.py"
    if not path.resolve().is_relative_to(Path.cwd().resolve()):
        raise RecoptError(f"'{shown(name)}' is outside of this folder: go there first, and give the name alone.")
    if path.exists():
        raise RecoptError(f"{path} is there already: give another name.")
    text = (TEMPLATES / f"{kind}.py").read_text()
    made = "".join(part[:1].upper() + part[1:] for part in stem.split("_") if part)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("Template", made))
    return path
