"""The content of a store: runs, found by id or name, and trained stacks registered under a name."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ...checking.errors import RecoptError, did_you_mean
from .address import in_words, local_file, resolve_store, shown, unopened
from .artifacts import download, has, scratch
from .spool import left
from .store import RUNS, Store, open_store

_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".cloudpickle"}
_ROOTS = "tags.`recopt.level` = '0'"
_LOSSES = ("loss", "final_loss")
_PAGE = 1000
_EXPORT = "export"
"""The artifact folder of a run's export."""
_ID = 32
"""Digits of a whole run id."""


@dataclass(frozen=True)
class RunRow:
    """One recorded run. ``status`` is MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED.

    A run on this machine whose process is gone is KILLED, whatever the store has of it.
    """

    id: str
    name: str
    status: str
    experiment: str
    """The experiment's id."""
    started: datetime
    seconds: float | None
    """From start to end; None if it has not ended."""
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    step: int
    """The last step of its losses."""
    folder: Path | None
    """The local folder of its artifacts; None if a server has them (see :func:`fetch_run`)."""

    @property
    def kind(self) -> str:
        """``run``, ``comparison`` or ``sweep``."""
        return self.tags.get("recopt.kind", "run")


def list_runs(
    store: str | None = None, limit: int | None = 20, root_dir: Path = RUNS, where: str | None = None
) -> list[RunRow]:
    """The runs of ``store``, latest first, at most ``limit``, without the nested runs of their levels.

    Args:
        where: a condition in MLflow's words that they fulfil, such as ``metrics.test_accuracy > 0.9``.

    Raises:
        RecoptError: if the store cannot be opened, there is none yet, or it does not understand the condition.
    """
    with _opened(store, root_dir) as opened:
        try:
            return _roots(opened, _ROOTS + (f" AND {where}" if where else ""), limit)
        except Exception as why:
            if where is None or getattr(why, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            raise RecoptError(f"MLflow does not understand '{where}': {in_words(why, opened.address)}") from None


def glance(store: str | None = None, most: int = 50, root_dir: Path = RUNS) -> list[tuple[str, str]]:
    """Ids and names of the latest runs of a store that is a file, read without MLflow, whose import takes seconds.

    None of a server, and none of a file that cannot be read. Raises RecoptError for an address of no known kind.
    """
    file = local_file(resolve_store(store, root_dir))
    if file is None:
        return []
    query = "SELECT run_uuid, name FROM runs JOIN tags USING (run_uuid) WHERE key = 'recopt.level' AND value = '0' " \
            "AND lifecycle_stage = 'active' ORDER BY start_time DESC LIMIT ?"  # fmt: skip
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as base:
        return [(str(run), str(name)) for run, name in base.execute(query, (most,))]
    return []


def find_run(store: str | None, ref: str, root_dir: Path = RUNS) -> RunRow:
    """The run named by ``ref``: an id, a unique beginning of an id, or a name (the latest run of that name).

    Raises:
        RecoptError: if there is no such run, or several ids begin like this.
    """
    with _opened(store, root_dir) as opened:
        return _find(opened, ref)


def find_single(store: str | None, ref: str, root_dir: Path = RUNS) -> RunRow:
    """As :func:`find_run`, of runs alone. Raises RecoptError for a comparison or a sweep too."""
    found = find_run(store, ref, root_dir)
    if found.kind != "run":
        raise RecoptError(f"'{ref}' is {_a(found.kind)}, not a run: 'recopt ui {ref}' shows it.")
    return found


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def find_resumable(kind: str, store: str | None, ref: str, root_dir: Path = RUNS) -> RunRow:
    """As :func:`find_run`, to go on with a ``comparison`` or a ``sweep``. Raises RecoptError for another kind too."""
    found = find_run(store, ref, root_dir)
    if found.kind != kind:
        command = {"comparison": "compare", "ablation": "ablate"}.get(found.kind, found.kind)
        raise RecoptError(f"Run {found.id} is {_a(found.kind)}, not {_a(kind)}: use 'recopt {command} --resume'.")
    return found


def fetch_run(run: RunRow, store: str | None = None, root_dir: Path = RUNS) -> Path:
    """The local folder with the artifacts of ``run``, downloaded if a server has them.

    Raises:
        RecoptError: if the server does not give them.
    """
    if run.folder is not None:
        return run.folder
    with _opened(store, root_dir) as opened:
        return download(opened, run.id, "", opened.root / "fetched" / run.id)


def working_folder(run: RunRow, store: str | None = None, root_dir: Path = RUNS) -> Path:
    """The folder from which ``run`` resumes: its local files, as a server may lack some, or else :func:`fetch_run`'s.

    Raises:
        RecoptError: if the server does not give them.
    """
    mine = open_store(store, root_dir).workplace(run.id)
    written = run.folder is None and mine.is_dir() and any(mine.iterdir())
    return mine if written else fetch_run(run, store, root_dir)


def register(
    folder: Path, name: str, alias: str | None = None, *, run: str, store: str | None = None, root_dir: Path = RUNS
) -> str:
    """Register ``folder`` (safetensors and JSON) as the next version of the model ``name``, made by ``run`` (its id).

    Returns:
        ``models:/name/version``, to be given to :func:`fetch_model`; with ``alias``, ``models:/name@alias``.

    Raises:
        RecoptError: for a folder that is missing, empty, or has a pickle in it, or a name MLflow does not take.
    """
    check_name(name, alias)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if not files:
        raise RecoptError(f"There is nothing to register in {folder}: export a run into it first.")
    for file in files:
        if file.suffix.lower() in _PICKLES:
            raise RecoptError(f"{file} may hold a pickle, which is unsafe to open: save it as safetensors.")
    with _opened(store, root_dir) as opened:
        client, local = opened.client, opened.folder(opened.run(run).info)
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
        place = f"models/{name}/{digest.hexdigest()[:12]}"  # a version never changes, so each has a place of its own
        if local is None:
            client.log_artifacts(run, str(folder), place)
        else:
            shutil.copytree(folder, local / place, dirs_exist_ok=True)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        version = client.create_model_version(name, source=f"runs:/{run}/{place}", run_id=run).version
        if alias is None:
            return f"models:/{name}/{version}"
        client.set_registered_model_alias(name, alias, version)
        return f"models:/{name}@{alias}"


def check_name(name: str, alias: str | None = None) -> None:
    """Raise RecoptError if MLflow refuses ``name`` as a model's name, or ``alias`` as an alias."""
    if not re.fullmatch(r"[\w-][\w. -]*", name, re.ASCII):
        raise RecoptError(f"'{name}' cannot be a model's name: use letters, digits, '-', '_' and '.'.")
    if alias is not None and not re.fullmatch(r"(?!v\d+$)(?!latest$)[\w-]+", alias, re.ASCII):
        raise RecoptError(f"'{alias}' cannot be an alias: use letters, digits, '-' and '_', but not v1 or latest.")


def fetch_model(ref: str, dest: Path | None = None, store: str | None = None, root_dir: Path = RUNS) -> Path:
    """The folder of ``models:/name@alias``, ``models:/name/version``, ``models:/name`` (latest) or ``runs:/id/path``.

    ``runs:/id`` (or the beginning of an id) is the run's export. With ``dest``, it is copied into that folder. Else it
    is a local store's own folder, or, from a server, a temporary folder that is removed when this process ends.

    Raises:
        RecoptError: if the reference is malformed, or names nothing.
    """
    with _opened(store, root_dir) as opened:
        uri = _source(opened, ref) if ref.startswith("models:/") else ref
        found = re.fullmatch(r"runs:/([0-9a-f]+)(?:/(.*))?", uri)
        if found is None:
            raise RecoptError(f"'{ref}' is not models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID or runs:/ID/PATH.")
        run, path = found[1], (found[2] or "").strip("/") or _EXPORT
        run = run if len(run) == _ID else _find(opened, run).id
        local = opened.folder(opened.run(run).info)
        if ".." in path.split("/") or not has(opened, run, local, path):
            remedy = f" yet: 'recopt export {run} DIR' writes one" if path == _EXPORT else ""
            raise RecoptError(f"Run {run} has no artifact '{path}'{remedy}.")
        if local is not None and dest is None:
            return local / path
        return download(opened, run, path, dest or scratch())


@contextmanager
def _opened(store: str | None, root_dir: Path) -> Iterator[Store]:
    """The opened store; its errors within the block become a RecoptError of one sentence."""
    opened = open_store(store, root_dir)
    try:
        yield opened
    except RecoptError:
        raise
    except Exception as why:
        raise unopened(opened.address, why) from None


def _roots(store: Store, condition: str, limit: int | None = None) -> list[RunRow]:
    from mlflow import utils

    all_pages: Any = utils.get_results_from_paginated_fn
    client, latest = store.client, ["attributes.start_time DESC"]
    experiments = [
        str(experiment.experiment_id)
        for experiment in all_pages(lambda n, token: client.search_experiments(max_results=n, page_token=token), _PAGE)
    ]

    def page(size: int, token: str | None) -> Any:
        return client.search_runs(experiments, condition, max_results=size, order_by=latest, page_token=token)

    found = all_pages(page, _PAGE, limit) if experiments and limit != 0 else []
    return [_row(store, run) for run in found]


def _row(store: Store, run: Any) -> RunRow:
    info, data = run.info, run.data
    ended = None if info.end_time is None or info.status == "RUNNING" else (info.end_time - info.start_time) / 1000
    status = (info.status == "RUNNING" and left(store.spools / f"{info.run_id}.jsonl")) or info.status
    # the public view of the metrics drops their steps
    step = max((int(metric.step) for metric in data._metric_objs if metric.key in _LOSSES), default=0)
    return RunRow(info.run_id, info.run_name or "", status, str(info.experiment_id),
                  datetime.fromtimestamp(info.start_time / 1000).astimezone(), ended, dict(data.params),
                  dict(data.metrics), dict(data.tags), step, store.folder(info))  # fmt: skip


def _find(store: Store, ref: str) -> RunRow:
    if re.fullmatch(r"[0-9a-f]{32}", ref):
        run = store.run(ref)
        return _row(store, store.run(run.data.tags.get("recopt.root", ref)))
    rows = _roots(store, _ROOTS)
    named = [row for row in rows if row.name == ref]
    if named:
        return named[0]
    begun = [row for row in rows if row.id.startswith(ref)] if re.fullmatch(r"[0-9a-f]+", ref) else []
    if len(begun) == 1:
        return begun[0]
    if begun:
        many = ", ".join(f"{row.id[:12]} ({row.name})" for row in begun[:5])
        raise RecoptError(
            f"{len(begun)} runs in {shown(store.address)} begin with '{ref}': {many}; give more of the id."
        )
    known = [row.name for row in rows if row.name][:20]
    raise RecoptError(f"There is no run '{ref}' in {shown(store.address)}.{did_you_mean(ref, dict.fromkeys(known))}")


def _source(store: Store, ref: str) -> str:
    """The ``runs:/…`` address that a model reference stands for."""
    found = re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))?", ref)
    if found is None:
        raise RecoptError(f"'{ref}' is not models:/NAME@ALIAS or models:/NAME/VERSION.")
    name, alias, number = found.groups()
    versions = store.client.search_model_versions(f"name = '{name}'")
    if not versions:
        known = [model.name for model in store.client.search_registered_models()]
        raise RecoptError(f"There is no model '{name}' in {shown(store.address)}.{did_you_mean(name, known)}")
    if alias is None:
        matching = [v for v in versions if number is None or str(v.version) == number]
        if not matching:
            raise RecoptError(
                f"The model '{name}' has no version {number}; its latest is {max(int(v.version) for v in versions)}."
            )
        return str(max(matching, key=lambda v: int(v.version)).source)
    aliases = dict(store.client.get_registered_model(name).aliases)
    if alias not in aliases:
        raise RecoptError(f"The model '{name}' has no alias '{alias}'.{did_you_mean(alias, aliases)}")
    return str(store.client.get_model_version(name, aliases[alias]).source)
