"""Recording a run: one MLflow run for the task and one nested run for each level."""

from __future__ import annotations

import getpass
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..contracts.errors import RecoptError
from .mlflow.address import unopened
from .mlflow.outbox import Outbox
from .mlflow.store import PARENT, RUNS, Store, metric_name, open_store
from .trace import Points

Status = Literal["FINISHED", "FAILED", "KILLED"]
_BATCH = 1000  # points in one call, the most that mlflow takes


@dataclass(frozen=True)
class LevelInfo:
    """A level as the store records it: its number from 1, a name for its run, its strategy, slot and params."""

    number: int
    name: str
    strategy: str
    moves: str
    params: Mapping[str, str] = field(default_factory=dict)


class Tracker:
    """Records one run and its levels. The store never stops a run: records that it does not take are sent later.

    Attributes:
        run_id: the id of the run; ``levels`` gives those of its levels by number.
        folder: the local folder in which to write artifacts.
    """

    def __init__(self, store: Store, runs: Mapping[int, str], notify: Callable[[str], None]) -> None:
        self.store, self.run_id = store, runs[0]
        self.levels = {number: run for number, run in runs.items() if number}
        local = store.folder(store.client.get_run(self.run_id).info)
        self._remote = local is None
        self.folder = local or store.workplace(self.run_id)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._outbox = Outbox(store, store.spools / f"{self.run_id}.jsonl", notify)
        self._latest: dict[tuple[str, str], int] = {}
        self._published: dict[str, tuple[int, int]] = {}

    @classmethod
    def start(
        cls, store: str | None, *, experiment: str, name: str, params: Mapping[str, str], tags: Mapping[str, str],
        levels: Sequence[LevelInfo], resume: str | None = None, root_dir: Path = RUNS,
        notify: Callable[[str], None] | None = None,
    ) -> Tracker:  # fmt: skip
        """Start to record a run, or resume the one with the id ``resume``.

        Args:
            store: an address, or None for ``mlflow.db`` in ``root_dir``.
            params: the run's; cut at 6,000 characters, the most that MLflow keeps.
            notify: called with one sentence for each kind of trouble that the store makes; default: print to stderr.

        Raises:
            RecoptError: if the store cannot be opened or written, or there is no run to resume.
        """
        opened = open_store(store, root_dir, create=True)
        try:
            if resume is None:
                runs = _create(opened, experiment=experiment, name=name, params=params, tags=tags, levels=levels)
            else:
                runs = _reopen(opened, resume, levels, tags)
            tracker = cls(opened, runs, notify or _to_stderr)
            if resume is not None:
                tracker._catch_up()
        except BlockingIOError:
            raise RecoptError(f"Run {resume} is being recorded by another process: wait for it, or stop it.") from None
        except OSError as why:
            raise RecoptError(f"The run's folder cannot be written ({why}): choose another runs folder.") from None
        except RecoptError:
            raise
        except Exception as why:
            raise unopened(opened.address, why) from None
        tracker._outbox.keep({"run": tracker.run_id, "alive": list(runs.values())})
        tracker._outbox.send_others(2.0)
        return tracker

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
        now, batches = int(time.time() * 1000), dict[str, list[list[Any]]]()
        for level, name, steps, values in points:
            run, key = self._place(level, name)
            batch, known = batches.setdefault(run, []), self._latest.get((run, key), -1)
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                if step <= known:
                    continue
                batch.append([key, _finite(value), now, step])
            if len(steps):
                self._latest[run, key] = max(known, int(steps[-1]))
        for run, batch in batches.items():
            for start in range(0, len(batch), _BATCH):
                self._outbox.keep({"run": run, "points": batch[start : start + _BATCH]})

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
        levels: Mapping[int, Mapping[str, float]] | None = None, *, step: int = 0,
    ) -> None:  # fmt: skip
        """End the run and its levels.

        ``summary`` becomes metrics of the run at ``step``, ``levels`` those of its levels' runs; what the record has
        of that step, from an earlier process too, is kept.
        """
        now = int(time.time() * 1000)
        own = {self.levels[number]: values for number, values in (levels or {}).items()}
        for run, last in {self.run_id: summary or {}, **own}.items():
            named = {metric_name(key): _finite(value) for key, value in last.items()}
            points = [[key, v, now, step] for key, v in named.items() if self._latest.get((run, key), -1) < step]
            self._outbox.keep({"run": run, "points": points})
        self.publish()
        for run in [*self.levels.values(), self.run_id]:
            self._outbox.keep({"run": run, "end": status, "time": now})
        self._outbox.finish()

    def _place(self, level: int, key: str) -> tuple[str, str]:
        if level == 0:
            return self.run_id, metric_name(key)
        if level in self.levels:
            return self.levels[level], metric_name(key)
        return self.run_id, metric_name(f"level{level}/{key}")


def _create(
    store: Store, *, experiment: str, name: str, params: Mapping[str, str], tags: Mapping[str, str],
    levels: Sequence[LevelInfo],
) -> dict[int, str]:  # fmt: skip
    where, client = store.experiment(experiment), store.client
    common = {"mlflow.user": _user(), "mlflow.source.name": "recopt", "mlflow.source.type": "LOCAL", **tags}
    root = client.create_run(where, run_name=name, tags={**common, "recopt.level": "0"}).info.run_id
    client.set_tag(root, "recopt.root", root)
    store.log_params(root, params)
    runs = {0: str(root)}
    for level in levels:
        about = {
            PARENT: root,
            "recopt.root": root,
            "recopt.level": str(level.number),
            "recopt.strategy": level.strategy,
            "recopt.moves": level.moves,
        }
        run = client.create_run(where, run_name=f"{level.number} {level.name} | {name}", tags={**common, **about})
        runs[level.number] = str(run.info.run_id)
        store.log_params(run.info.run_id, {"strategy": level.strategy, "moves": level.moves, **level.params})
    return runs


def _reopen(store: Store, root: str, levels: Sequence[LevelInfo], tags: Mapping[str, str]) -> dict[int, str]:
    run = store.run(root)
    nested = store.client.search_runs([run.info.experiment_id], f"tags.`{PARENT}` = '{root}'", max_results=1000)
    runs = {0: root} | {
        int(child.data.tags["recopt.level"]): str(child.info.run_id)
        for child in nested
        if "recopt.level" in child.data.tags
    }
    if missing := {level.number for level in levels} - runs.keys():
        raise RecoptError(f"Run {root} has no level {min(missing)}: resume it with the stack that it was started with.")
    for number in runs:
        store.client.update_run(runs[number], status="RUNNING")
    for key, value in tags.items():
        store.client.set_tag(root, key, value)
    return runs


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return "unknown"


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr)
