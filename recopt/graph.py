"""The graph of optimizer levels: slots are nodes, levels are edges. Validation, defaults, description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NoReturn

import networkx as nx

from .errors import RecoptError, unknown
from .level import TASK, Level
from .stack import notation
from .strategy import Strategy

WINDOW_OF_VALUES = 100
"""Task evaluations over which a zero-order level scores a trial, where nothing else is said."""


class Graph:
    """Levels over slots, checked and complete.

    Args:
        levels: numbered from 1 in this order; a strategy's meta-loss comes from the lower-numbered levels
            that move by it, so a self-loop and a cycle need no special case.
        slots: the strategies by slot name.
        task_names: the task's movable parameters, to match ``only`` patterns against; where they are not
            known yet, :meth:`check_task` follows.
        labels: how each slot is written in stack notation, e.g. ``adam(lr=0.001)``.

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
        self._check_slots()
        self.subjects = [self._subjects(number) for number in range(len(self.levels))]
        self.levels = [self._resolve(number, level) for number, level in enumerate(self.levels)]
        for number in range(len(self.levels)):
            self._check_level(number)
        self._check_movers()
        if task_names is not None:
            self.check_task(task_names)

    # structure

    def _subjects(self, number: int) -> list[int]:
        """The levels (0-based) whose strategy level ``number`` moves and whose losses score it."""
        return [m for m in range(number) if self.levels[m].by == self.levels[number].moves]

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
                self._check_level(number)
        self._check_movers()

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

    # what is left open

    def _resolve(self, number: int, level: Level) -> Level:
        by = self.slots[level.by]
        beneath = {} if level.moves == TASK else self.slots[level.moves].above
        given = level.model_dump(exclude_none=True)
        open_: dict[str, Any] = dict(beneath) | dict(by.level)
        if by.order == 0:
            open_ = {k: v for k, v in open_.items() if k not in ("gradient", "second_order", "normalize", "every")}
        settings = {**{k: v for k, v in open_.items() if k in Level.model_fields}, **given}
        if level.moves == TASK:
            fixed = {"every": 1, "gradient": "direct" if by.order else "value"}
            base = {**fixed, "second_order": False, "normalize": settings.get("normalize", "none")}
            return Level(**{**base, "objective": "mean", "on": "train", **given})
        default: dict[str, Any] = {"objective": "mean", "on": "train", "second_order": False}
        if by.order == 0:
            window = open_.get("window", WINDOW_OF_VALUES)
            span = max(1, self.evaluations(self.clock(number))) if self.subjects[number] else 1
            default |= {"gradient": "value", "normalize": "none", "every": max(1, round(window / span))}
        else:
            online = settings.get("every", 1) == 1 and not settings.get("second_order")
            default |= {"gradient": "online" if online else "unroll", "normalize": "rms", "every": 1}
        if level.moves == level.by:
            default["trust"] = 0.01
        settings = {**default, **settings}
        episode, every = settings.get("episode"), settings["every"]
        if episode and level.episode is None and episode % every:
            # Nobody chose this length: the nearest that holds whole windows.
            settings["episode"] = every * max(1, round(episode / every))
        return Level(**settings)

    # refusals

    def _refuse(self, number: int, why: str) -> NoReturn:
        level = self.levels[number]
        raise RecoptError(f"Level {number + 1} ({level.by} moves {level.moves}): {why}")

    def _check_slots(self) -> None:
        if not self.levels:
            raise RecoptError("The graph has no level, so nothing moves: give at least one, e.g. 'adam'.")
        if TASK in self.slots:
            raise RecoptError("A strategy's slot cannot be called 'task': that is the model. Give it another label.")
        for number, level in enumerate(self.levels):
            if level.by not in self.slots:
                raise unknown("slot", level.by, self.slots, f"in level{number + 1}.by")
            if level.moves not in self.slots and level.moves != TASK:
                raise unknown("slot", level.moves, [TASK, *self.slots], f"in level{number + 1}.moves")
        idle = set(self.slots) - {level.by for level in self.levels}
        if idle:
            raise RecoptError(f"Strategy '{min(idle)}' moves nothing: give it a level or leave it out.")
        if self.levels[0].moves != TASK:
            self._refuse(0, "the first level must move the task; number the levels from the innermost.")

    def _check_level(self, number: int) -> None:
        level = self.levels[number]
        names = self.names.get(level.moves)
        if names is not None and not self.moved(number, names):
            if level.only:
                have = ", ".join(names) or "none"
                self._refuse(
                    number, f"'only' matches no parameter of '{level.moves}': {' '.join(level.only)}. Have: {have}."
                )
            self._refuse(number, f"'{level.moves}' has nothing to move: it declares no parameter.")
        if (level.schedule != "constant") != (level.horizon is not None):
            self._refuse(number, "a schedule goes with its length: set both 'schedule' and 'horizon', or neither.")
        if level.moves == TASK:
            self._check_task_level(number)
        else:
            self._check_upper_level(number)
        if self.order(number) == 0 and level.normalize != "none":
            self._refuse(
                number, f"a zero-order strategy reads no signal to normalize: drop normalize={level.normalize}."
            )

    def _check_task_level(self, number: int) -> None:
        level = self.levels[number]
        wanted = "direct" if self.order(number) else "value"
        if level.gradient != wanted:
            self._refuse(number, f"a level that moves the task has gradient={wanted}, not {level.gradient}.")
        if level.every != 1:
            self._refuse(number, "a level that moves the task steps at every evaluation: drop 'every'.")
        if level.episode is not None:
            self._refuse(number, "'episode' says when the slot below starts afresh, and there is none below the task.")
        if level.normalize == "cosine":
            self._refuse(number, "normalize=cosine compares updates with what came after them: use it above level 1.")
        if level.on != "train" or level.objective != "mean" or level.second_order:
            self._refuse(number, "on, objective and second_order score a strategy: set them on the level above.")

    def _check_upper_level(self, number: int) -> None:
        level, subjects = self.levels[number], self.subjects[number]
        if not subjects:
            self._refuse(
                number, f"no lower level moves by '{level.moves}', so nothing scores it: put it above one that does."
            )
        if self.order(number) == 0:
            if level.gradient != "value":
                self._refuse(
                    number,
                    f"'{level.by}' is zero-order and reads values only: set gradient=value, not {level.gradient}.",
                )
        elif level.gradient not in ("unroll", "online"):
            self._refuse(
                number,
                f"'{level.by}' reads gradients: set gradient=unroll or online, or put a zero-order strategy here.",
            )
        elif level.objective and level.objective.startswith("steps_to"):
            self._refuse(number, "steps_to has no gradient: use it with a zero-order strategy, or objective=mean here.")
        for m in subjects if self.order(number) else []:
            self._check_differentiable(number, m)
        self._check_cosine(number)
        if level.gradient == "online" and (level.every != 1 or level.second_order):
            self._refuse(
                number, "gradient=online is the unroll of length 1 without second derivatives: use gradient=unroll."
            )
        if level.episode is not None and level.every and level.episode % level.every:
            near = level.every * max(1, round(level.episode / level.every))
            self._refuse(
                number, f"an episode of {level.episode} does not hold whole windows of {level.every}: use {near}."
            )
        if level.on == "valid" and any(self.levels[m].moves != TASK for m in subjects):
            self._refuse(number, "on=valid needs a task right below: set it on the level over level 1.")

    def _check_differentiable(self, number: int, m: int) -> None:
        level, subject = self.levels[number], self.levels[m]
        if self.order(m) == 0:
            self._refuse(number, f"no gradient passes through level {m + 1}, since '{subject.by}' is zero-order: "
                                 "move it by a zero-order strategy such as annealing.")  # fmt: skip
        if level.second_order and subject.moves != TASK and not subject.second_order:
            mend = f"set level{m + 1}.second_order=true or level{number + 1}.second_order=false"
            self._refuse(number, f"second derivatives are dropped in level {m + 1} beneath: {mend}.")

    def _check_cosine(self, number: int) -> None:
        """The cosine's denominator is a number of one window of updates; nothing differentiates through it."""
        level = self.levels[number]
        below = [m for m in sorted(self.below(number)) if self.levels[m].normalize == "cosine"]
        if level.second_order and below:
            self._refuse(number, f"an exact level differentiates what is beneath, but level {below[0] + 1} has "
                                 f"normalize=cosine: set level{below[0] + 1}.normalize=rms.")  # fmt: skip
        if level.second_order and level.normalize == "cosine" and self.levels[self.clock(number)].moves != TASK:
            self._refuse(number, "normalize=cosine is not defined for exact levels this high: use normalize=rms.")

    def _check_movers(self) -> None:
        episodes: dict[str, tuple[int, int]] = {}
        for number, level in enumerate(self.levels):
            for m in range(number):
                names = self.names.get(level.moves)
                if self.levels[m].moves != level.moves or names is None:
                    continue
                both = set(self.moved(m, names)) & set(self.moved(number, names))
                if both:
                    self._refuse(
                        number, f"level {m + 1} moves '{names[min(both)]}' too: give them disjoint 'only' patterns."
                    )
            for m in self.subjects[number] if level.episode else []:
                slot = self.levels[m].moves
                first, length = episodes.setdefault(slot, (number, level.episode or 0))
                if length != level.episode:
                    self._refuse(
                        number,
                        f"level {first + 1} ends episodes of '{slot}' after {length} steps: use the same length.",
                    )

    def describe(self) -> str:
        """The stack notation, innermost first, or one arrow per level where the graph is no stack."""
        return notation(self.levels, self.labels, self.names)
