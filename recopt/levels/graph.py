"""The graph of optimizer levels: slots are nodes, levels are edges."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from html import escape

import networkx as nx

from ..checking.arguments import checked
from ..contracts.strategy import Strategy
from .automatic import chosen
from .checks import check_level, check_movers, check_slots, check_strategies
from .completion import POPULATION, complete, populated, set_to, strides
from .level import BILEVEL, TASK, Level
from .notation import notation, with_settings
from .notices import tell_exact, tell_unmoved
from .paces import Paces
from .structure import Structure
from .words import rows


class Graph(Structure):
    """Levels over slots, checked and complete.

    Args:
        levels: numbered from 1 in this order; a strategy's meta-loss comes from the lower-numbered levels
            that move by it, so a self-loop and a cycle need no special case.
        slots: the strategies by slot name.
        task_names: the task's movable parameters, to match ``only`` patterns against; where they are not
            known yet, :meth:`check_task` follows.
        labels: how each slot is written in stack notation, e.g. ``adam(lr=0.001)``.

    Attributes (and those of a :class:`recopt.levels.structure.Structure`):
        paces: the levels whose ``every`` others move.
        strides: by slot, the settings of its strategy that were filled in because of where it stands (``slots`` and
            ``labels`` have them); see :func:`recopt.levels.completion.strides`.

    Raises:
        RecoptError: if the graph cannot work, with the reason and the remedy.
    """

    @checked
    def __init__(
        self,
        levels: Sequence[Level],
        slots: Mapping[str, Strategy],
        task_names: Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        check_strategies(slots)
        super().__init__(levels, slots)
        self.labels = dict(labels or {})
        check_slots(self)
        for number, level in enumerate(self.levels):
            if (made := populated(self, number)) is not self.slots[level.by]:
                self.slots[level.by] = made
                label = self.labels.get(level.by, level.by)
                self.labels[level.by] = with_settings(label, {POPULATION: made._options[POPULATION]})
        self.paces = Paces(self)
        for number in range(len(self.levels)):
            self.levels[number] = chosen(self, number)
            self.levels[number] = complete(self, number)
            self.paces.add(number)
            self.paces.examine(number)
        for number in range(len(self.levels)):
            check_level(self, number)
            tell_exact(self, number)
        tell_unmoved(self)
        check_movers(self)
        self._starts = strides(self)
        own = {slot: {name: x for name, x in each.items() if "." not in name} for slot, each in self._starts.items()}
        self.strides = {slot: values for slot, values in own.items() if values}
        for slot, values in self._starts.items():
            self.slots[slot] = set_to(self.slots[slot], values)
        for slot, values in self.strides.items():
            self.labels[slot] = with_settings(self.labels.get(slot, slot), values)
        if task_names is not None:
            self.check_task(task_names)

    def check_task(self, names: Sequence[str]) -> None:
        """Check what concerns the task's movable parameters, once their ``names`` are known."""
        self.names[TASK] = list(names)
        for number, level in enumerate(self.levels):
            if level.moves == TASK:
                check_level(self, number)
        check_movers(self)

    def afresh(self, slot: str, seed: int, draw: int) -> Strategy:
        """The strategy of ``slot`` as it begins, with initial meta-parameters drawn anew."""
        return set_to(self.slots[slot].afresh(seed, draw), self._starts.get(slot, {}))

    def with_values(self, slot: str, parameters: Strategy) -> Graph:
        """The same levels with ``parameters`` in ``slot``, the loss or the start of the task, once they are known."""
        made = copy.copy(self)
        made.slots = {**self.slots, slot: parameters}
        made.names = {**self.names, slot: [name for name, _ in parameters.named_parameters()]}
        for number in made.movers[slot]:
            check_level(made, number)
        check_movers(made)
        return made

    def network(self) -> nx.MultiDiGraph[str]:
        """Slots as nodes and levels as edges from ``by`` to ``moves``, keyed by level number."""
        graph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
        graph.add_nodes_from([TASK, *filter(self.movers.get, BILEVEL), *self.slots])
        for number, level in enumerate(self.levels, 1):
            graph.add_edge(level.by, level.moves, key=number, level=level)
        return graph

    def __repr__(self) -> str:
        lines = [
            f"{level}: {by} moves {moves}{', ' if how else ''}{how}"
            for level, by, moves, how in rows(self.paces, self.labels)
        ]
        return "\n".join([f"recopt.Graph {self.describe()}", *lines])

    def _repr_html_(self) -> str:
        """The levels as a table, for notebooks."""
        lines = "".join(
            f"<tr>{''.join(f'<td style=text-align:left>{escape(cell)}</td>' for cell in cells)}</tr>"
            for cells in rows(self.paces, self.labels)
        )
        return f"<table><caption>{escape(self.describe())}</caption>{lines}</table>"

    def describe(self) -> str:
        """The stack notation, innermost first, or one arrow per level where the graph is no stack."""
        return notation(self.levels, self.labels, self.names)
