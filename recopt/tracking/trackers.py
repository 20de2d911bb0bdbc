"""Trackers beside MLflow, what they are told of a run, and those for JSON lines, TensorBoard, Weights & Biases.

The latter write into the run's folder. A run that is resumed gives them its points from the beginning, so they start
their files anew.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, runtime_checkable

from ..checking.errors import RecoptError, unknown
from ..checking.numbers import finite
from .trace import Points

POINTS = "points.jsonl"
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class LevelInfo:
    """A level (or a contender) as it is recorded, in a nested run of its own where there are such.

    Attributes:
        number: from 1; 0 is the run itself.
        charts: the section of its curves among those of the run; empty if they stand in the nested run only.
        description: Markdown.
    """

    number: int
    name: str
    strategy: str
    moves: str
    params: Mapping[str, str] = field(default_factory=dict)
    charts: str = ""
    description: str = ""


@dataclass(frozen=True)
class RunInfo:
    """A run as it is recorded: the ``experiment`` it belongs to, its name, settings, levels, and a Markdown text."""

    experiment: str
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    levels: Sequence[LevelInfo] = ()
    description: str = ""


@runtime_checkable
class Tracker(Protocol):
    """Takes the figures of one run beside MLflow: ``start``, then ``log`` any number of times, then ``finish``."""

    def start(self, run: RunInfo, folder: Path) -> None:
        """Begin; ``folder`` is that of the run's artifacts."""

    def log(self, points: Iterable[Points]) -> None:
        """Take new points, in a run that is resumed from the beginning. The steps of a column ascend."""

    def finish(self, status: Status, summary: Mapping[str, float], step: int) -> None:
        """End, with figures of the whole run and its last step; without (empty, 0) if it was interrupted or failed."""


class JsonLines:
    """Writes ``points.jsonl``: a line for the run, one for each point, one for the end.

    Values that are not finite are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
    """

    _file: TextIO

    def start(self, run: RunInfo, folder: Path) -> None:
        """Write what the run is."""
        self._file = (folder / POINTS).open("w", encoding="utf-8")
        self._write({"run": asdict(run)})

    def log(self, points: Iterable[Points]) -> None:
        """Write a line ``{"level", "key", "step", "value"}`` for each point."""
        for level, key, steps, values in points:
            for step, value in zip(steps.tolist(), values.tolist(), strict=True):
                self._write({"level": level, "key": key, "step": step, "value": value})
        self._file.flush()

    def finish(self, status: Status, summary: Mapping[str, float], step: int) -> None:
        """Write how the run ended, and close the file."""
        self._write({"end": status, "step": step, "summary": summary})
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(finite(line, str), allow_nan=False) + "\n")


class TensorBoard:
    """Writes event files into ``tensorboard/``, with the levels as sections and the params as hyperparameters."""

    def start(self, run: RunInfo, folder: Path) -> None:
        """Begin the event files and write the description."""
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._run = run
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("run", run.description, 0)

    def log(self, points: Iterable[Points]) -> None:
        """Add scalars."""
        for key, step, value in _scalars(self._run, points):
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def finish(self, status: Status, summary: Mapping[str, float], step: int) -> None:
        """Add the params and the summary, as a row of the table of hyperparameters, and close the files."""
        if summary:
            values, params = {f"summary/{key}": value for key, value in summary.items()}, dict(self._run.params)
            self._writer.add_hparams(params, values, run_name=".", global_step=step)
        self._writer.close()


class WeightsAndBiases:
    """Records a run of Weights & Biases in ``wandb/``, offline unless WANDB_MODE says otherwise.

    ``wandb sync`` sends it. Its project is WANDB_PROJECT, else the name of the experiment; steps are ``evaluation``.
    """

    def start(self, run: RunInfo, folder: Path) -> None:
        """Begin a run with the params as its config."""
        import wandb

        self._info = run
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", run.experiment), name=run.name, notes=run.description,
            config={"params": dict(run.params), "tags": dict(run.tags)}, dir=folder, reinit="create_new",
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="evaluation")

    def log(self, points: Iterable[Points]) -> None:
        """Log a row for each evaluation."""
        rows: dict[int, dict[str, float]] = {}
        for key, step, value in _scalars(self._info, points):
            rows.setdefault(step, {"evaluation": step})[key] = value
        for _, row in sorted(rows.items()):
            self._run.log(row)

    def finish(self, status: Status, summary: Mapping[str, float], step: int) -> None:
        """Write the summary and end the run."""
        self._run.summary.update({**summary, "status": status})
        self._run.finish(exit_code=0 if status == "FINISHED" else 1)


_NAMES: dict[str, tuple[Callable[[], Tracker], str | None]] = {
    "jsonl": (JsonLines, None), "tensorboard": (TensorBoard, "tensorboard"), "wandb": (WeightsAndBiases, "wandb"),
}  # fmt: skip
"""The trackers by name, each with the package that it needs."""
NAMES = tuple(_NAMES)


def make_trackers(wanted: Sequence[str | Tracker]) -> list[Tracker]:
    """The trackers ``wanted``, by name (``jsonl``, ``tensorboard``, ``wandb``) or as they are.

    Raises:
        RecoptError: for an unknown name, or one whose package is not installed.
    """
    made = []
    for one in wanted:
        if not isinstance(one, str):
            made.append(one)
            continue
        if one not in _NAMES:
            raise unknown("tracker", one, NAMES)
        make, package = _NAMES[one]
        if package and importlib.util.find_spec(package) is None:
            raise RecoptError(f"The tracker '{one}' needs the package '{package}': pip install 'recopt[{package}]'.")
        made.append(make())
    return made


def _scalars(run: RunInfo, points: Iterable[Points]) -> Iterable[tuple[str, int, float]]:
    """Key (with its level's section before it), step and value of each point."""
    sections = {level.number: level.charts or f"level{level.number}" for level in run.levels}
    for level, key, steps, values in points:
        name = f"{sections.get(level, f'level{level}')}/{key}" if level else key
        yield from ((name, step, value) for step, value in zip(steps.tolist(), values.tolist(), strict=True))
