"""Results that go to other processes: an engine holds what cannot be pickled, so it is made again where it is used."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from ..contracts.task import Task
from ..engine.budget import Budget
from ..engine.engine import Engine, copied
from ..levels.graph import Graph
from ..levels.state import RunState
from ..stacks.build import make_strategies, make_task
from ..stacks.exported import Trained
from ..stacks.plugin_file import FROM_FILE
from .spec import Spec
from .start import make_engine


class Remaking(NamedTuple):
    """The parts of a run from which its engine is made again, in another process too.

    Attributes:
        task: None if it is made from the spec, by its name, as classes from plugin files cannot be pickled.
        graph: likewise.
        clean: the run's last moment at which no tape was open, with the number of steps since (``replay``).
    """

    task: Task | None
    graph: Graph | None
    clean: RunState
    replay: int
    budget: Budget

    @classmethod
    def of(cls, engine: Engine) -> Remaking:
        """The parts of ``engine``."""
        task, slots = engine.family.task, engine.graph.slots.values()
        named = any(isinstance(slot, Trained) or type(slot).__module__.startswith(FROM_FILE) for slot in slots)
        return cls(None if type(task).__module__.startswith(FROM_FILE) else task, None if named else engine.graph,
                   engine.clean, engine.replay, engine.budget)  # fmt: skip

    def engine(self, spec: Spec) -> Engine:
        """An engine in the same state. Raises RecoptError if its parts cannot be found by the names in ``spec``."""
        graph = self.graph or Graph(
            spec.levels, make_strategies(spec.strategies, spec.seed, spec.plugins), labels=spec.labels
        )
        made = make_engine(spec, graph, self.task or make_task(spec.task, spec.seed, spec.plugins))
        made.resume(copied(self.clean), self.replay, copy.deepcopy(self.budget))
        return made


class Portable:
    """The pickling and copying of what has an ``engine`` and its ``spec``."""

    spec: Spec
    engine: Engine

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the engine, and what it is made again from when it is asked for."""
        state = dict(self.__dict__)
        engine = state.pop("engine", None)
        return state if engine is None else {**state, "_made": Remaking.of(engine)}

    def __getattr__(self, name: str) -> Any:
        made: Remaking | None = self.__dict__.get("_made")
        if name != "engine" or made is None:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        self.engine = made.engine(self.spec)
        return self.engine
