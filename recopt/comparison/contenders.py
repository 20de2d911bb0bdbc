"""Competitors: stacks as text, graphs, exports, and rules with given hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..contracts.errors import RecoptError
from ..contracts.task import Task
from ..levels.graph import Graph
from ..levels.level import TASK, Level, Schedule
from ..running.plan import plan
from ..running.repeats import held_still
from ..stacks.build import make_strategies
from ..stacks.exported import Trained, read_folder
from ..stacks.fetch import read_export
from ..stacks.named import Named, written
from ..stacks.plugins import is_export
from .spec import CompareSpec, Contender

Kind = Literal["stack", "export", "trained", "baseline"]


class Training(NamedTuple):
    """One training of a competitor: its seed, the trained graph, its cost in evaluations, and the id of its run."""

    seed: int
    graph: Graph
    evaluations: int
    run_id: str | None = None


@dataclass(frozen=True)
class Competitor:
    """A participant in a comparison.

    Attributes:
        name: its name in tables and pictures.
        graph: its levels.
        kind: ``stack`` (run as given), ``export`` or ``trained`` for the comparison (both with fixed values), or tuned
            ``baseline``.
        prepared: evaluations spent on tuning or meta-training; None if unknown.
        chosen: the hyperparameters of a baseline.
        notes: remarks for the reader, in sentences.
        trainings: those made for the comparison; ``graph`` is then from the first one, and ``prepared`` their mean
            cost.
    """

    name: str
    graph: Graph
    kind: Kind = "stack"
    prepared: int | None = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trainings: tuple[Training, ...] = ()

    @property
    def graphs(self) -> list[Graph]:
        """The graphs to run: one, or one per training."""
        return [training.graph for training in self.trainings] or [self.graph]

    @property
    def stack(self) -> str:
        """The graph in stack notation."""
        return self.graph.describe()


def contender(asked: Contender, task: str | Task, spec: CompareSpec) -> Competitor:
    """A competitor from a spec: a stack or the folder of an export; those to train first are in :mod:`.training`.

    Raises:
        RecoptError: for an unknown name or setting, a graph that cannot work, or one with episodes that are too short.
    """
    assert asked.stack is not None
    folder = Path(asked.stack)
    if is_export(folder):
        if asked.settings:
            raise RecoptError(f"'{folder}' is an export, which has no settings to change: leave them out.")
        return _exported(asked, folder, spec.guards)
    made = plan(task, asked.stack, seed=spec.seed, settings=asked.settings, plugins=spec.plugins or None).graph
    return stacked(asked.name or asked.stack, made, spec, asked.trained)


def stacked(name: str, graph: Graph, spec: CompareSpec, trained: int | None = None) -> Competitor:
    """A graph as a competitor. Arguments and errors are those of :func:`contender`."""
    for number, level in enumerate(graph.levels, 1):
        shortest = level.length(0)
        if shortest is not None and shortest < spec.steps:
            raise RecoptError(
                f"In '{name}' level {number} starts afresh every {shortest} steps, and the comparison has "
                f"{spec.steps}: train it with 'recopt run', export it, and compare the exported folder."
            )
    learned = [slot for slot, s in graph.slots.items() if s.learned and not isinstance(s, Trained)]
    notes = [f"'{learned[0]}' starts untrained."] if learned else []
    exports = {type(s).export.folder: type(s).export for s in graph.slots.values() if isinstance(s, Trained)}
    spent = [export.spent for export in exports.values()]
    if trained is None:
        trained = None if None in spent else sum(n for n in spent if n is not None)
        notes += [_UNKNOWN] if None in spent else []
    still = exports and all(level.moves == TASK for level in graph.levels)
    kind: Kind = "export" if still else "stack"
    return Competitor(name, guarded(graph, spec.guards), kind, trained, notes=tuple(notes))


_UNKNOWN = "The cost of its training is unknown: give 'trained'."


def _exported(asked: Contender, folder: Path, guards: bool) -> Competitor:
    """The levels of an export that move the task, with the trained values fixed."""
    levels, strategies = read_export(folder)
    graph = held_still(levels, strategies, guards)
    prepared = asked.trained if asked.trained is not None else read_folder(folder).spent
    notes = () if prepared is not None else (_UNKNOWN,)
    return Competitor(asked.name or folder.name, graph, "export", prepared, notes=notes)


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
    return Graph([level.model_copy(update={"guard": False}) for level in graph.levels], graph.slots,
                 labels=graph.labels)  # fmt: skip
