"""Training of competitors by ordinary runs, whose exported values are then compared, fixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..checking.errors import RecoptError
from ..engine.measure import settled
from ..levels.level import TASK
from ..running.plan import Plan, replan
from ..running.repeats import held_at
from ..running.spec import LARGEST_SEED
from ..stacks.failures import RunFailed
from ..tracking.mlflow.store import RUNS
from .compare_spec import CompareSpec, CompetitorSpec
from .competitors import Competitor, Training, guarded

if TYPE_CHECKING:
    from ..running.result import Result
    from ..running.session import Session

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trainee:
    """A competitor to train: its name, a plan for each training, and whether guards act in the comparison."""

    name: str
    plans: tuple[Plan, ...]
    guards: bool


def trainee(asked: CompetitorSpec, spec: CompareSpec) -> Trainee:
    """The trainee of a spec that has a run.

    Raises:
        RecoptError: for a run that cannot work, does not train the rule that moves the task, or has too large a seed.
    """
    assert asked.run is not None
    where = f"the run of '{asked.name or asked.stack or asked.run.get('stack') or 'a competitor'}'"
    data = {"device": spec.device, "dtype": spec.dtype, "plugins": [], **asked.run}
    if isinstance(data["plugins"], list):
        data["plugins"] = [*data["plugins"], *spec.plugins]
    first = replan(data, stack=asked.stack, settings=asked.settings, where=where)
    rules = {level.by for level in first.graph.levels if level.moves == TASK}
    if not any(level.moves in rules for level in first.graph.levels):
        raise RecoptError(
            f"In {where} nothing is trained: no level moves {' or '.join(sorted(rules))}. Give it as a stack, or put a "
            "level above, as in lstm/adam."
        )
    if first.spec.seed + asked.repeat > LARGEST_SEED:
        raise RecoptError(f"In {where} seeds must be below {LARGEST_SEED:,}: the rest is kept for comparisons.")
    others = [
        replan(data, stack=asked.stack, settings=asked.settings, where=where, seed=first.spec.seed + n)
        for n in range(1, asked.repeat)
    ]
    return Trainee(asked.name or first.graph.describe(), (first, *others), spec.guards)


class Trainer:
    """Trains competitors; a run that several competitors or comparisons share is made once.

    Every run is recorded as by ``recopt run``, in the store of the comparison.
    """

    def __init__(self, store: str | None = None, track: bool = True, root: Path = RUNS) -> None:
        self.store, self.track, self.root = store, track, root
        self._done: dict[str, Training] = {}

    def train(self, one: Trainee, progress: Progress) -> Competitor:
        """Train ``one``.

        Raises:
            RecoptError: for errors of use that only appear while it runs.
            RunFailed: for an error in a strategy or task, with the traceback in the run's folder if it is recorded.
            KeyboardInterrupt: if it was interrupted.
        """
        trainings = []
        for plan in one.plans:
            words = f"{one.name}, seed {plan.spec.seed}" if len(one.plans) > 1 else one.name
            training = self._run(plan, words, progress)
            trainings.append(training._replace(graph=guarded(training.graph, one.guards)))
        spent = round(sum(training.evaluations for training in trainings) / len(trainings))
        return Competitor(one.name, trainings[0].graph, "trained", spent,
                          trainings=tuple(trainings))  # fmt: skip

    def _run(self, plan: Plan, words: str, progress: Progress) -> Training:
        from ..running.session import RunOptions, Session

        key = json.dumps(plan.spec.model_dump(mode="json"), sort_keys=True)
        if key in self._done:
            return self._done[key]

        def report(session: Session) -> None:
            progress(f"training {words}", session.step, plan.spec.steps)

        options = RunOptions(store=self.store, track=self.track, name=f"train {words}", progress=report, root=self.root)
        try:
            found = Session(plan, options).run()
        except RunFailed as why:
            raise RunFailed(f"In the training of '{words}': {why}") from why
        if found.status != "FINISHED":
            raise KeyboardInterrupt
        self._done[key] = _training(found)
        return self._done[key]


def _training(found: Result) -> Training:
    """The exported rule of a run, fixed, and its cost in evaluations, including those for choosing values."""
    engine, chosen, total = found.engine, found.chosen, found.budget.total
    values = chosen.values if chosen else {name: slot.params for name, slot in settled(engine).slots.items()}
    graph = held_at(engine.levels, engine.graph.slots, values, guards=True)
    spent = total.loss + total.gradient + (chosen.evaluations if chosen else 0)
    return Training(found.spec.seed, graph, round(spent), found.run_id)
