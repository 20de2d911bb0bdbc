"""Exports as a user names them: a folder, or an address in a store."""

from __future__ import annotations

import os
from pathlib import Path

from ..checking.errors import RecoptError, shown
from ..contracts.strategy import Strategy
from ..levels.level import Level
from .exported import read_folder
from .places import STACK, is_export


def is_reference(stack: str) -> bool:
    """True if ``stack`` is an address in an MLflow store: ``runs:/…`` or ``models:/…``."""
    return stack.startswith(("runs:/", "models:/"))


def fetch_export(reference: str, store: str | Path | None = None) -> Path:
    """The folder of the export at ``reference`` in a store, downloaded if a server has it.

    Raises:
        RecoptError: if there is nothing there, or no export, or the store does not answer.
    """
    from ..tracking.mlflow.address import address_of  # here, since only this needs a store
    from ..tracking.mlflow.runs import fetch_model

    folder = fetch_model(reference, store=address_of(store))
    if not is_export(folder):
        raise RecoptError(f"'{reference}' is no export of recopt: it has no {STACK}.")
    return folder


def export_folder(stack: str | Path) -> Path | None:
    """``stack`` as a folder, if it is the folder of an export or is written as a path; else None.

    Raises:
        RecoptError: if it is written as a path, and there is no such folder.
    """
    path = Path(stack)
    written = isinstance(stack, Path) or stack.startswith(("/", "./", "../"))
    if written and not os.path.isdir(path):
        given = shown(str(stack), 100)
        if path.suffix == ".py":
            raise RecoptError(f"A stack names strategies without folders: write '{path.stem}', with plugins '{given}'.")
        raise RecoptError(f"There is no folder '{given}': give that of an export, or a stack such as adam/sgd.")
    return path if os.path.isdir(path) and (written or is_export(path)) else None


def read_export(folder: Path) -> tuple[list[Level], dict[str, Strategy]]:
    """The levels and trained strategies in ``folder``.

    Raises:
        RecoptError: if the folder is not an export, or its values do not fit its strategies.
    """
    export = read_folder(folder)
    return export.manifest.levels, {slot: export.make(slot) for slot in export.manifest.strategies}
