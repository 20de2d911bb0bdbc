"""``recopt doctor``: what this machine has of what recopt uses."""

from __future__ import annotations

import platform

import rich_click as click

from ..checking.errors import RecoptError
from .options import JSON, STORE
from .tables import console, print_json, table

_PACKAGES = ("recopt", "torch", "higher", "mlflow", "numpy", "scipy", "safetensors", "pydantic")


@click.command()
@STORE
@JSON
def doctor(store: str | None, as_json: bool) -> int:
    """Show versions, device, data and store; the exit status is 1 if something that runs need does not work."""
    found = {**_versions(), **_machine(), **_places(store)}
    if as_json:
        print_json({name: text for name, (text, _) in found.items()})
    else:
        rows = table("", "", wrap=(1,))
        for name, (text, works) in found.items():
            rows.add_row(name, text if works else f"[red]{text}[/]")
        console().print(rows)
    return 0 if all(works for _, works in found.values()) else 1


def _versions() -> dict[str, tuple[str, bool]]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": (platform.python_version(), True)}
    for name in _PACKAGES:
        try:
            found[name] = (version(name), True)
        except PackageNotFoundError:
            found[name] = ("not installed", name == "recopt")  # recopt may run from its source
    return found


def _machine() -> dict[str, tuple[str, bool]]:
    import torch

    from ..running.start import available

    name = available()
    card = f" ({torch.cuda.get_device_name()})" if name.startswith("cuda") else ""
    return {"device": (f"{name}{card}", True), "threads": (str(torch.get_num_threads()), True)}


def _places(store: str | None) -> dict[str, tuple[str, bool]]:
    from ..data.folder import data_folder
    from ..tracking.mlflow.address import resolve_store, shown
    from ..tracking.mlflow.store import RUNS, open_store

    folder = data_folder()
    data = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = {"data": (f"{folder}: {', '.join(data) or 'nothing yet; downloaded when first used'}", True)}
    address = resolve_store(store, RUNS)
    try:
        open_store(store, RUNS)
    except RecoptError as why:
        new = str(why).startswith("There are no runs yet")
        return {**found, "store": ("none yet: the first run makes it" if new else str(why), new)}
    return {**found, "store": (shown(address), True)}
