"""Competitors: stacks as text, graphs, exports, and rules with given hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..checking.errors import RecoptError
from ..contracts.task import Task
from ..levels.graph import Graph
from ..levels.level import TASK, Level, Schedule
from ..running.plan import plan
from ..running.repeats import fixed
from ..stacks.build import make_strategies
from ..stacks.exported import Trained, read_folder
from ..stacks.fetch import read_export
from ..stacks.named import Named, written
from ..stacks.places import is_export
from .compare_spec import CompareSpec, CompetitorSpec

_UNKNOWN = "The cost of its training is unknown: give 'trained'."


class Training(NamedTuple):
    """One training of a competitor: its seed, the trained graph, its cost in evaluations, and the id of its run."""

    seed: int
    graph: Graph
    evaluations: int
    run_id: str | None = None


class TuningTrial(NamedTuple):
    """One setting of a baseline, its position in the ranges, and its score (lower is better)."""

    values: Mapping[str, Any]
    units: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class Competitor:
    """A participant in a comparison.

    Attributes:
        name: its name in tables and pictures.
        kind: ``stack`` (run as given), ``export`` or ``trained`` for the comparison (both with fixed values), or tuned
            ``baseline``.
        prepared: evaluations spent on tuning or meta-training (the mean over ``trainings``); None if unknown.
        hyperparameters: those of a baseline.
        notes: remarks for the reader, in sentences.
        trainings: those made for the comparison; ``graph`` is then from the first one.
        trials: of a baseline's tuning, in order.
    """

    name: str
    graph: Graph
    kind: Literal["stack", "export", "trained", "baseline"] = "stack"
    prepared: int | None = 0
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trainings: tuple[Training, ...] = ()
    trials: Sequence[TuningTrial] = field(default=(), repr=False)

    @property
    def graphs(self) -> list[Graph]:
        """The graphs to run: one, or one per training."""
        return [training.graph for training in self.trainings] or [self.graph]

    @property
    def tuning_score(self) -> float:
        """The best score in tuning; NaN if it was not tuned."""
        return min((trial.score for trial in self.trials), default=math.nan)


def competitor(asked: CompetitorSpec, task: str | Task, spec: CompareSpec) -> Competitor:
    """The competitor of a spec: a stack or the folder of an export; :mod:`.training` has those to train first.

    Raises:
        RecoptError: for an unknown name or setting, a graph that cannot work, or one with episodes that are too short.
    """
    assert asked.stack is not None
    folder = Path(asked.stack)
    if not is_export(folder):
        made = plan(task, asked.stack, seed=spec.seed, settings=asked.settings, plugins=spec.plugins or None).graph
        return stacked(asked.name or asked.stack, made, spec, asked.trained)
    if asked.settings:
        raise RecoptError(f"'{folder}' is an export, which has no settings to change: leave them out.")
    graph = fixed(*read_export(folder), spec.guards)
    prepared = asked.trained if asked.trained is not None else read_folder(folder).spent
    return Competitor(
        asked.name or folder.name, graph, "export", prepared, notes=() if prepared is not None else (_UNKNOWN,)
    )


def stacked(name: str, graph: Graph, spec: CompareSpec, trained: int | None = None) -> Competitor:
    """A graph as a competitor. Arguments and errors are those of :func:`competitor`."""
    for number, level in enumerate(graph.levels, 1):
        shortest = level.length(0)
        if shortest is not None and shortest < spec.steps:
            raise RecoptError(
                f"In '{name}' level {number} starts afresh every {shortest} steps, and the comparison has "
                f"{spec.steps}: train it with 'recopt run', export it, and compare the exported folder."
            )
    learned = [slot for slot, s in graph.slots.items() if s.learned and not isinstance(s, Trained)]
    notes = [f"'{learned[0]}' starts untrained."] if learned else []
    exports = {type(s).export.folder: type(s).export.spent for s in graph.slots.values() if isinstance(s, Trained)}
    if trained is None and None in exports.values():
        notes.append(_UNKNOWN)
    elif trained is None:
        trained = sum(spent for spent in exports.values() if spent is not None)
    still = exports and all(level.moves == TASK for level in graph.levels)
    return Competitor(name, guarded(graph, spec.guards), "export" if still else "stack", trained, notes=tuple(notes))


def rule(
    label: str, named: Named, steps: int, schedule: Schedule, guards: bool, plugins: Sequence[str] = ()
) -> Competitor:
    """A baseline: one strategy on the task, with a schedule over ``steps``."""
    slot = named.name.replace("-", "_")
    over = steps if schedule != "constant" else None
    level = Level(moves=TASK, by=slot, schedule=schedule, horizon=over, guard=guards)
    graph = Graph([level], make_strategies({slot: named}, 0, plugins), labels={slot: written(slot, named)})
    return Competitor(label, graph, "baseline", 0, {**named.settings, "schedule": schedule})


def guarded(graph: Graph, guards: bool) -> Graph:
    """``graph`` with its guards unchanged, or all off."""
    if guards:
        return graph
    levels = [level.model_copy(update={"guard": False}) for level in graph.levels]
    return Graph(levels, graph.slots, labels=graph.labels)
