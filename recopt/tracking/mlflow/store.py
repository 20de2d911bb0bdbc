"""The store that runs are recorded in, through MLflow. The only file that imports mlflow.

Runs are always addressed by their ids, never through mlflow's "active run", which belongs to a thread.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from ...checking.errors import RecoptError
from .address import (
    Locked,
    address_of,
    check_server,
    check_sqlite,
    in_words,
    local_file,
    resolve_store,
    shown,
    unopened,
)
from .children import Children
from .spool import Message, Refused, Unreachable, locked, spool_folder

RUNS = Path("runs")
_PARAM = 6000  # characters of a parameter, the most that MLflow keeps
_NOISY = ("mlflow", "mlflow.store.db.utils", "alembic", "urllib3.connectionpool")
_SETTINGS = {  # a user's own values take precedence
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_REFUSALS = {"INVALID_PARAMETER_VALUE", _MISSING, "INVALID_STATE", "BAD_REQUEST"}


class Store:
    """An opened store. ``client`` is an ``mlflow.MlflowClient``; make stores with :func:`open_store`."""

    def __init__(self, address: str, root: Path, client: Any) -> None:
        self.address, self.root, self.client = address, root, client
        self._children: Children | None = None

    @property
    def spools(self) -> Path:
        """The folder of messages that could not be sent yet."""
        return spool_folder(self.root, self.address)

    def experiment(self, name: str) -> str:
        """The id of the experiment ``name``, made if it is missing, with its artifacts in a folder below ``root``.

        MLflow never changes the artifact folder of an experiment. If the runs folder was moved or copied, new runs
        therefore go to an experiment of their own, named after the new folder.
        """
        place = self.root / "artifacts" / re.sub(r"[^\w.-]+", "_", name)
        known = self.client.get_experiment_by_name(name)
        was = local_artifacts(known.artifact_location) if known and not self.address.startswith("http") else None
        mine = (file := local_file(self.address)) is not None and file.parent == self.root
        if was is not None and was != place and (mine or not was.parent.exists()):
            name = f"{name} in {self.root}"
            known = self.client.get_experiment_by_name(name)
        if known is None:
            try:
                location = None if self.address.startswith("http") else place.as_uri()
                return str(self.client.create_experiment(name, artifact_location=location))
            except Exception:  # another process may have made it since
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
        if known.lifecycle_stage != "active":
            raise RecoptError(
                f"The experiment '{name}' was deleted in {shown(self.address)}: restore it, or name another."
            )
        return str(known.experiment_id)

    def folder(self, info: Any) -> Path | None:
        """The local folder of a run's artifacts (from its ``info``); None if they are elsewhere.

        Where the runs folder was moved or copied, it is the one in there, and not the one that MLflow names.
        """
        place = local_artifacts(info.artifact_uri)
        if place is None:
            return None
        here = self.root.joinpath("artifacts", *place.parts[-3:])
        return here if here.exists() else place

    def workplace(self, run: str) -> Path:
        """The local folder of the files of a run whose artifacts are elsewhere, to be sent from there."""
        return self.root / "local" / run

    def take(self, message: Message) -> None:
        """Write one message of a spool.

        Raises:
            Unreachable: if the store does not answer, or cannot write now.
            Refused: if the store will never take the message.
        """
        try:
            if "child" in message:
                self._trial(message)
            else:
                self.log_params(message["run"], message.get("params", {}))
                _write(self.client, message)
        except Exception as why:
            refusal = Refused if _for_good(self.client, message["run"], why) else Unreachable
            raise refusal(in_words(why, self.address)) from None

    def _trial(self, message: Message) -> None:
        """Write a message of a trial of a sweep."""
        if self._children is None or self._children.root != message["run"]:
            self._children = Children(self.client, message["run"], self.log_values)
        self._children.take(message)

    def run(self, run: str) -> Any:
        """The ``mlflow.entities.Run`` with id ``run``. Raises RecoptError if there is none, or it was deleted."""
        try:
            found = self.client.get_run(run)
        except Exception as why:
            if getattr(why, "error_code", "") not in _REFUSALS:
                raise
            raise RecoptError(f"There is no run {run} in {shown(self.address)}: 'recopt runs' lists them.") from None
        if found.info.lifecycle_stage != "active":
            raise RecoptError(f"Run {run} was deleted in {shown(self.address)}: restore it there first.")
        return found

    def log_params(self, run: str, values: Mapping[str, str]) -> None:
        """Set params of ``run``, cut where they are longer than MLflow keeps."""
        param = _mlflow().entities.Param
        made = [param(metric_name(key), _cut(str(value))) for key, value in values.items()]
        for start in range(0, len(made), 100):
            self.client.log_batch(run, params=made[start : start + 100])

    def log_values(
        self, run: str, params: Mapping[str, str], metrics: Mapping[str, float], time: int, step: int
    ) -> None:
        """Set params and metrics of ``run`` at ``step`` in one call; at most 100 params."""
        entities = _mlflow().entities
        made = [entities.Param(metric_name(key), _cut(str(value))) for key, value in params.items()]
        points = [entities.Metric(key, value, time, step) for key, value in metrics.items()]
        self.client.log_batch(run, metrics=points, params=made)

    def last_steps(self, run: str) -> dict[str, int]:
        """The last step that each metric of ``run`` has."""
        # the public view drops the steps, and histories have thousands of points
        return {metric.key: int(metric.step) for metric in self.client.get_run(run).data._metric_objs}


def _write(client: Any, message: Message) -> None:
    run, metric = message["run"], _mlflow().entities.Metric
    if points := message.get("points"):
        parent, prefix = message.get("copy", (None, ""))
        client.log_batch(run, metrics=[metric(*point) for point in points])
        if parent:
            client.log_batch(parent, metrics=[metric(prefix + key, *rest) for key, *rest in points])
    for name in message.get("files", []):
        file = Path(message["folder"]) / name
        if file.is_file():  # it may have been removed since
            where = Path(name).parent.as_posix()
            client.log_artifact(run, str(file), None if where == "." else where)
    for key, value in message.get("tags", {}).items():
        client.set_tag(run, key, value)
    if status := message.get("end"):
        client.set_terminated(run, status, message["time"])


def _for_good(client: Any, run: str, why: Exception) -> bool:
    """True if a store that refused because of ``why`` will again: if it has lost the run, or calls a value invalid.

    A server that is starting, or a proxy before it, may answer that it does not know a run, or with "bad request".
    """
    code = getattr(why, "error_code", "")
    if code not in _REFUSALS:
        return False
    try:
        return bool(client.get_run(run).info.lifecycle_stage != "active") or code == "INVALID_PARAMETER_VALUE"
    except Exception as other:
        return getattr(other, "error_code", "") == _MISSING


def open_store(store: str | None = None, root: Path = RUNS, create: bool = False) -> Store:
    """The store at ``store`` (None: ``mlflow.db`` in ``root``); with ``create`` made if it does not exist.

    Raises:
        RecoptError: if it cannot be opened, with the reason and the remedy in one sentence.
    """
    root = root.absolute()  # a run may change the working directory
    address = resolve_store(store, root)
    lock = spool_folder(root, address).with_suffix(".lock")
    if (file := local_file(address)) is not None:
        _check(file, create, lock)
    try:
        if file is None and not address.startswith("http"):
            check_server(address)
        with locked(lock) if create else nullcontext(), _quiet():
            if file is not None and not (file.exists() and file.stat().st_size):
                _make(file)
            client = _mlflow().MlflowClient(tracking_uri=address, registry_uri=address)
            client.search_experiments(max_results=1)
    except Exception as why:
        if isinstance(why, OSError) and why.filename:  # a file of ours, not the store
            raise RecoptError(
                f"The runs folder {root} cannot be written to ({why.strerror}): choose another."
            ) from None
        raise unopened(address, why) from None
    return Store(address, root, _Polite(client))


def _check(file: Path, create: bool, lock: Path) -> None:
    """As :func:`check_sqlite`, but wait for a process of ours that makes the tables and holds ``lock``."""
    try:
        check_sqlite(file, create)
    except Locked:
        if not lock.exists():
            raise
        with locked(lock):
            check_sqlite(file, create)


def _make(file: Path) -> None:
    """Make an empty database beside ``file``, and put it there once it is whole: a kill leaves none, and not half."""
    draft = file.with_name(f".{file.name}.part")
    draft.unlink(missing_ok=True)
    address = address_of(draft)
    _mlflow().MlflowClient(tracking_uri=address, registry_uri=address).search_experiments(max_results=1)
    draft.replace(file)


def metric_name(key: str) -> str:
    """``key`` as a name that MLflow takes: letters, digits, spaces and ``_ - . : /``; others become ``_``."""
    clean = re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)
    return re.sub(r"/{2,}", "/", clean).strip("/")[:250] or "_"


def local_artifacts(place: str) -> Path | None:
    """The local folder that an artifact address names; None if it is not on this machine."""
    if place.startswith("file:"):
        return Path(url2pathname(re.sub(r"^file:(//[^/]*)?", "", place)))
    return None if re.match(r"\w[\w+-]+:", place) else Path(place)


def _cut(value: str) -> str:
    note = " … (cut here; the whole is in spec.yaml)"
    return value if len(value) <= _PARAM else value[: _PARAM - len(note)] + note


class _Polite:
    """An mlflow client whose calls neither print nor wait long, and that keeps the program's own mlflow settings."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def politely(*args: Any, **kwargs: Any) -> Any:
            with _quiet():
                return call(*args, **kwargs)

        return politely


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels, before = [logger.level for logger in loggers], {name: os.environ.get(name) for name in _SETTINGS}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)  # what they log as an error, they raise too
            for name, value in _SETTINGS.items():
                os.environ.setdefault(name, value)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, was in before.items():
            if was is None:
                os.environ.pop(name, None)


def _mlflow() -> Any:
    """The module mlflow, imported when first used, without telemetry."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.entities
    return mlflow
