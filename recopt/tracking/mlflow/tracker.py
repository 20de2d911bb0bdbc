"""The record of a run in MLflow: one run for the task, with one nested run for each level."""

from __future__ import annotations

import getpass
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ...checking.errors import RecoptError
from ..trace import Points
from ..trackers import RunInfo, Status
from .address import unopened
from .children import NOTE, PARENT
from .outbox import Outbox
from .store import RUNS, Store, metric_name, open_store

_BATCH = 1000  # points in one call, the most that mlflow takes


class MlflowTracker:
    """Records one run and its levels. The store never stops a run: what it does not take is sent later.

    The curves of a level stand in its nested run and, in a section of their own, among those of the run.

    Attributes:
        run_id: the id of the run.
        folder: the local folder in which to write artifacts.
    """

    def __init__(self, store: Store, runs: Mapping[int, str], run: RunInfo, notify: Callable[[str], None]) -> None:
        self.store, self.run_id, self._runs = store, runs[0], dict(runs)
        self._charts = {level.number: level.charts for level in run.levels}
        local = store.folder(store.client.get_run(self.run_id).info)
        self._remote = local is None
        self.folder = local or store.workplace(self.run_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._outbox = Outbox(store, store.spools / f"{self.run_id}.jsonl", notify)
        self._latest: dict[tuple[str, str], int] = {}
        self._published: dict[str, tuple[int, int]] = {}

    @classmethod
    def start(
        cls, store: str | None, run: RunInfo, *, resume: str | None = None, root_dir: Path = RUNS,
        notify: Callable[[str], None] | None = None,
    ) -> MlflowTracker:  # fmt: skip
        """Start to record ``run``, or resume the one with the id ``resume``.

        Params are cut at 6,000 characters, the most that MLflow keeps.

        Args:
            store: an address, or None for ``mlflow.db`` in ``root_dir``.
            notify: called with one sentence for each kind of trouble that the store makes; default: print to stderr.

        Raises:
            RecoptError: if the store cannot be opened or written, or there is no run to resume.
        """
        opened = open_store(store, root_dir, create=True)
        try:
            runs = _create(opened, run) if resume is None else _reopen(opened, resume, run)
            tracker = cls(opened, runs, run, notify or (lambda sentence: print(sentence, file=sys.stderr)))
            if resume is None:  # its spool first, which tells of a run that is killed while its levels are made
                tracker._outbox.keep({"run": tracker.run_id, "alive": [tracker.run_id]})
                tracker._runs |= _create_levels(opened, tracker.run_id, run)
            else:
                tracker._catch_up()
        except BlockingIOError:
            raise RecoptError(f"Run {resume} is being recorded by another process: wait for it, or stop it.") from None
        except OSError as why:
            raise RecoptError(f"The run's folder cannot be written ({why}): choose another runs folder.") from None
        except RecoptError:
            raise
        except Exception as why:
            raise unopened(opened.address, why) from None
        tracker._outbox.keep({"run": tracker.run_id, "alive": list(tracker._runs.values())})
        tracker._outbox.send_others(2.0)
        return tracker

    @property
    def levels(self) -> dict[int, str]:
        """The ids of the nested runs by their levels' numbers."""
        return {number: nested for number, nested in self._runs.items() if number}

    def _catch_up(self) -> None:
        """Find the last recorded step of each column, sent or not, and fetch the run's files if they are elsewhere."""
        runs = [self.run_id, *self.levels.values()]
        # Unsent points first: an earlier process that still sends may move them to the store meanwhile.
        self._latest = self._outbox.unsent_steps()
        for run in runs:
            for key, step in self.store.last_steps(run).items():
                self._latest[run, key] = max(step, self._latest.get((run, key), -1))
        if self._remote and not any(self.folder.iterdir()):
            self.store.client.download_artifacts(self.run_id, "", str(self.folder))

    def log(self, points: Iterable[Points]) -> None:
        """Record points; those up to the last step that the store has of a column are skipped.

        Values that are not finite are recorded as NaN, a gap in the curve (MLflow would store 1.8e308 and spoil
        the axis).
        """
        now, batches = int(time.time() * 1000), dict[int, list[list[Any]]]()
        for level, name, steps, values in points:
            number, key = (level, name) if level in self._runs else (0, f"level{level}/{name}")
            run, key = self._runs[number], metric_name(key)
            known = self._latest.get((run, key), -1)
            new = zip(steps.tolist(), values.tolist(), strict=True)
            batches.setdefault(number, []).extend([key, _finite(v), now, step] for step, v in new if step > known)
            if len(steps):
                self._latest[run, key] = max(known, int(steps[-1]))
        for number, batch in batches.items():
            copy = {"copy": [self.run_id, f"{charts}/"]} if (charts := self._charts.get(number)) else {}
            for start in range(0, len(batch), _BATCH):
                self._outbox.keep({"run": self._runs[number], "points": batch[start : start + _BATCH], **copy})

    def child(
        self, number: int, name: str, params: Mapping[str, str], metrics: Mapping[str, float], step: int,
        status: str | None, note: str,
    ) -> None:  # fmt: skip
        """Record ``metrics`` of nested run ``number`` at ``step``, unless it has them; ``status`` ends it."""
        named = {metric_name(key): value for key, value in metrics.items()}
        told = {"name": name, "params": dict(params), "metrics": named, "step": step, "status": status, "note": note}
        self._outbox.keep({"run": self.run_id, "child": number, "time": int(time.time() * 1000), **told})

    def describe(self, level: int, params: Mapping[str, str]) -> None:
        """Record params of the run (level 0) or of a level that were not known at its start."""
        self._outbox.keep({"run": self._runs[level], "params": dict(params)})

    def flush(self) -> None:
        """Start to send the points logged so far; returns at once. A short run sends them at its end."""
        self._outbox.flush()

    def publish(self) -> None:
        """Send the new and changed files in ``folder`` to a store elsewhere; a local store reads them there itself.

        Files whose names begin with a dot are left out.
        """
        if not self._remote:
            return
        files = {
            file.relative_to(self.folder).as_posix(): (stat.st_mtime_ns, stat.st_size)
            for file in sorted(self.folder.rglob("[!.]*"))
            if file.is_file() and (stat := file.stat())
        }
        changed = [name for name, state in files.items() if self._published.get(name) != state]
        self._published = files
        if changed:
            self._outbox.keep({"run": self.run_id, "folder": str(self.folder), "files": changed})

    def finish(
        self, status: Status, summary: Mapping[str, float] | None = None,
        levels: Mapping[int, Mapping[str, float | str]] | None = None, *, step: int = 0,
    ) -> None:  # fmt: skip
        """End the run and its levels.

        ``summary`` becomes metrics of the run at ``step``; what the record has of that step, from an earlier process
        too, is kept. ``levels`` are constants: they become tags of the levels' runs, those of 0 of the run.
        """
        now = int(time.time() * 1000)
        named = {metric_name(key): _finite(value) for key, value in (summary or {}).items()}
        points = [[k, v, now, step] for k, v in named.items() if self._latest.get((self.run_id, k), -1) < step]
        self._outbox.keep({"run": self.run_id, "points": points})
        for number, values in (levels or {}).items():
            tags = {metric_name(k): v if isinstance(v, str) else f"{v:.10g}" for k, v in values.items()}
            self._outbox.keep({"run": self._runs[number], "tags": tags})
        self.publish()
        for run in [*self.levels.values(), self.run_id]:
            self._outbox.keep({"run": run, "end": status, "time": now})
        self._outbox.finish()


def _create(store: Store, run: RunInfo) -> dict[int, str]:
    where, client = store.experiment(run.experiment), store.client
    about = {"recopt.level": "0", NOTE: run.description}
    root = str(client.create_run(where, run_name=run.name, tags={**_common(run), **about}).info.run_id)
    client.set_tag(root, "recopt.root", root)
    store.log_params(root, run.params)
    return {0: root}


def _create_levels(store: Store, root: str, run: RunInfo) -> dict[int, str]:
    where, client, runs = store.experiment(run.experiment), store.client, dict[int, str]()
    for level in run.levels:
        about = {
            PARENT: root, "recopt.root": root, "recopt.level": str(level.number), "recopt.strategy": level.strategy,
            "recopt.moves": level.moves, NOTE: level.description,
        }  # fmt: skip
        nested = client.create_run(where, run_name=level.name, tags={**_common(run), **about}).info.run_id
        runs[level.number] = str(nested)
        store.log_params(nested, {"strategy": level.strategy, "moves": level.moves, **level.params})
    return runs


def _common(run: RunInfo) -> dict[str, str]:
    return {"mlflow.user": _user(), "mlflow.source.name": "recopt", "mlflow.source.type": "LOCAL", **run.tags}


def _reopen(store: Store, root: str, run: RunInfo) -> dict[int, str]:
    found = store.run(root)
    nested = store.client.search_runs([found.info.experiment_id], f"tags.`{PARENT}` = '{root}'", max_results=1000)
    runs = {0: root} | {
        int(child.data.tags["recopt.level"]): str(child.info.run_id)
        for child in nested
        if "recopt.level" in child.data.tags
    }
    if missing := {level.number for level in run.levels} - runs.keys():
        raise RecoptError(f"Run {root} has no level {min(missing)}: resume it with the stack that it was started with.")
    for one in runs.values():
        store.client.update_run(one, status="RUNNING")
    for key, value in run.tags.items():
        store.client.set_tag(root, key, value)
    return runs


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return "unknown"
