"""The structure of a graph of levels: what moves a slot, and what scores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from ..contracts.strategy import Strategy
from .level import BILEVEL, TASK, Level


class Structure:
    """Levels over slots as they were given; :class:`recopt.Graph` is one that is checked and complete.

    Attributes:
        movers: by slot, the task's first, the levels (0-based) that move it.
        subjects: by level, the levels whose strategy it moves and whose losses score it; those that move the task where
            it moves the parameters of the loss or the start.
        above: by level, the levels that are scored by what it moves.
    """

    def __init__(self, levels: Sequence[Level], slots: Mapping[str, Strategy]) -> None:
        self.slots = dict(slots)
        # Weights that a strategy's author froze stay as they are, as a model's do.
        self._still = {(slot, n) for slot, s in slots.items() for n, p in s.named_parameters() if not p.requires_grad}
        self.names = {name: [n for n, _ in s.named_parameters()] for name, s in slots.items()}
        self.levels = list(levels)
        self.subjects = [[m for m in range(n) if self._scores(m, x)] for n, x in enumerate(self.levels)]
        everything = (TASK, *BILEVEL, *self.slots)
        self.movers = {s: [n for n, x in enumerate(self.levels) if x.moves == s] for s in everything}
        self.above = [[n for n, below in enumerate(self.subjects) if m in below] for m in range(len(self.levels))]

    def _scores(self, m: int, level: Level) -> bool:
        return self.levels[m].moves == TASK if level.moves in BILEVEL else self.levels[m].by == level.moves

    def still(self, slot: str, name: str) -> None:
        """Let no level move the parameter ``name`` of a strategy's slot."""
        self._still.add((slot, name))

    def title(self, number: int) -> str:
        """Level ``number`` in a message: in a stack with groups its number alone says little."""
        return f"level {number + 1} ({self.levels[number].by} moves {self.levels[number].moves})"

    def clock(self, number: int) -> int:
        """The subject whose steps level ``number`` counts: the slowest, if there are several."""
        return self.subjects[number][-1]

    def below(self, number: int) -> set[int]:
        """All levels under ``number``: its subjects, their subjects, and so on."""
        found, todo = set[int](), list(self.subjects[number])
        while todo:
            if (m := todo.pop()) not in found:
                found.add(m)
                todo += self.subjects[m]
        return found

    def within(self, number: int) -> set[int]:
        """The levels that an exact level differentiates through: those under it, and all others of the task.

        What one group of parameters does changes the gradients of the others.
        """
        return self.below(number) | set(self.movers[TASK])

    def order(self, number: int) -> int:
        """1 if level ``number`` (0-based) moves by a first-order strategy, 0 if by a zero-order one."""
        return self.slots[self.levels[number].by].order

    def moved(self, number: int, names: Sequence[str]) -> list[int]:
        """The indices of those parameters ``names`` of its slot that level ``number`` moves."""
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
        found = 1
        while self.levels[number].moves != TASK and self.subjects[number]:
            found *= self.levels[number].every or 1
            number = self.clock(number)
        return found
