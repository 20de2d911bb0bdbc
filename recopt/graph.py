"""The graph of optimizer levels: slots are nodes, levels are edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import networkx as nx

from .defaults import complete, set_to, strides
from .level import TASK, Level
from .refusals import check_level, check_movers, check_slots
from .stack import notation, with_settings
from .strategy import Strategy


class Graph:
    """Levels over slots, checked and complete.

    Args:
        levels: numbered from 1 in this order; a strategy's meta-loss comes from the lower-numbered levels
            that move by it, so a self-loop and a cycle need no special case.
        slots: the strategies by slot name.
        task_names: the task's movable parameters, to match ``only`` patterns against; where they are not
            known yet, :meth:`check_task` follows.
        labels: how each slot is written in stack notation, e.g. ``adam(lr=0.001)``.

    Attributes:
        movers: by slot, the task's first, the levels (0-based) that move it.
        subjects: by level, the levels whose strategy it moves and whose losses score it.
        above: by level, the levels that are scored by what it moves.
        strides: by slot, what was filled in of its strategy because of where it stands (``slots`` and ``labels``
            have it); see :func:`recopt.defaults.strides`.

    Raises:
        RecoptError: if the graph cannot work, with the reason and the remedy.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        slots: Mapping[str, Strategy],
        task_names: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self.slots = dict(slots)
        self.labels = dict(labels or {})
        # Weights that a strategy's author froze stay as they are, as a model's do.
        self._still = {(slot, n) for slot, s in slots.items() for n, p in s.named_parameters() if not p.requires_grad}
        self.names = {name: [n for n, _ in s.named_parameters()] for name, s in slots.items()}
        self.levels = list(levels)
        check_slots(self)
        self.subjects = [[m for m in range(n) if self.levels[m].by == x.moves] for n, x in enumerate(self.levels)]
        self.movers = {s: [n for n, x in enumerate(self.levels) if x.moves == s] for s in (TASK, *self.slots)}
        self.above = [[n for n, below in enumerate(self.subjects) if m in below] for m in range(len(self.levels))]
        self.levels = [complete(self, number) for number in range(len(self.levels))]
        for number in range(len(self.levels)):
            check_level(self, number)
        check_movers(self)
        self.strides = strides(self)
        for slot, values in self.strides.items():
            self.slots[slot] = set_to(self.slots[slot], values)
            self.labels[slot] = with_settings(self.labels.get(slot, slot), values)
        if task_names is not None:
            self.check_task(task_names)

    # structure

    def clock(self, number: int) -> int:
        """The subject whose steps level ``number`` counts: the slowest, if there are several."""
        return self.subjects[number][-1]

    def below(self, number: int) -> set[int]:
        """All levels under ``number``: its subjects, their subjects, and so on."""
        found: set[int] = set()
        for m in self.subjects[number]:
            found |= {m} | self.below(m)
        return found

    def check_task(self, names: Sequence[str]) -> None:
        """Check what concerns the task's movable parameters, once their ``names`` are known."""
        self.names[TASK] = list(names)
        for number, level in enumerate(self.levels):
            if level.moves == TASK:
                check_level(self, number)
        check_movers(self)

    def order(self, number: int) -> int:
        """Whether level ``number`` (0-based) moves by a first-order (1) or a zero-order (0) strategy."""
        return self.slots[self.levels[number].by].order

    def moved(self, number: int, names: Sequence[str]) -> list[int]:
        """Which of the parameters ``names`` of its slot level ``number`` moves, as indices."""
        level = self.levels[number]
        free = [i for i, n in enumerate(names) if (level.moves, n) not in self._still]
        if level.only:
            return [i for i in free if any(fnmatchcase(names[i], p) for p in level.only)]
        taken = {
            i
            for m, other in enumerate(self.levels)
            if m != number and other.moves == level.moves and other.only
            for i in self.moved(m, names)
        }
        return [i for i in free if i not in taken]

    def evaluations(self, number: int) -> int:
        """Evaluations of the task between two steps of level ``number``."""
        level = self.levels[number]
        return 1 if level.moves == TASK else (level.every or 1) * self.evaluations(self.clock(number))

    def network(self) -> nx.MultiDiGraph[str]:
        """Slots as nodes and levels as edges from ``by`` to ``moves``, keyed by level number."""
        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        graph.add_nodes_from([TASK, *self.slots])
        for number, level in enumerate(self.levels, 1):
            graph.add_edge(level.by, level.moves, key=number, level=level)
        return graph

    def describe(self) -> str:
        """The stack notation, innermost first, or one arrow per level where the graph is no stack."""
        return notation(self.levels, self.labels, self.names)
