"""The result of a run: histories, hyperparameters, budget, and the place of its record."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checking.errors import RecoptError, unknown
from ..checking.numbers import as_given
from ..contracts.strategy import Strategy
from ..diagnosis.verdict import Verdict
from ..diagnosis.view import LevelView
from ..engine.budget import Budget
from ..engine.engine import Engine
from ..engine.measure import models, settled, start_of
from ..levels.graph import Graph
from ..levels.level import LOSS, TASK
from ..levels.words import how, target
from ..plots.panels import plot_run
from ..rules.told import told
from ..tracking.trace import Trace
from .remaking import Portable
from .repeats import has_diverged
from .selection.scores import Selection
from .spec import Spec


@dataclass(repr=False)
class Result(Portable):
    """A finished (or interrupted) run.

    Attributes:
        spec: the fully resolved spec; running it again repeats the run.
        stack: the graph in stack notation.
        trace: every recorded figure; see :meth:`history`.
        before, after: loss and metrics on the ``test`` split before the first and after the last step.
        hyperparameters: final natural values by slot and name, as in ``recopt.Optimizer``: ``{"adam.lr": 0.002, …}``.
        budget: evaluations and seconds spent per level.
        status: ``FINISHED`` or ``KILLED`` (interrupted).
        run_id, folder: the place of its record; None if it was not recorded.
        engine: the run itself, in its last state; a copy from another process makes it again when it is asked for.
        chosen: the exported values, if they were chosen; ``hyperparameters`` are then from these.
        verdicts: what went wrong in it, as ``recopt why`` tells; empty if nothing did.
    """

    spec: Spec
    stack: str
    trace: Trace
    before: dict[str, float]
    after: dict[str, float]
    hyperparameters: dict[str, float]
    budget: Budget
    status: str
    engine: Engine
    run_id: str | None = None
    folder: Path | None = None
    chosen: Selection | None = None
    verdicts: Sequence[Verdict] = ()

    def history(self, key: str = "loss", level: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps and values of one figure; level 0 is the task, 1 and up the levels.

        Raises:
            RecoptError: if the run has no such figure.
        """
        known = [name for at, name in self.trace.keys() if at == level]  # noqa: SIM118 - not a mapping
        if key not in known and known:
            raise unknown("figure", str(key), known, f"of level {level}")
        if not known and (level or self.trace.keys()):
            raise RecoptError(f"There is no level {level!r} in this run: 0 is the task, 1 the innermost level.")
        return self.trace.series(level, key)

    @property
    def losses(self) -> NDArray[np.float64]:
        """The task's training loss at each evaluation on the accepted path, shape (n,)."""
        return self.trace.series(0, "loss")[1]

    @property
    def diverged(self) -> bool:
        """True if the last loss is not finite, or exceeds ten times the first."""
        return bool(len(self.losses)) and bool(has_diverged(self.losses))

    @property
    def outcome(self) -> str:
        """One word for how the run ended: ``interrupted``, ``frozen``, ``diverged`` or ``finished``."""
        if self.status != "FINISHED":
            return "interrupted"
        return "frozen" if all_frozen(self.engine) else "diverged" if self.diverged else "finished"

    def __repr__(self) -> str:
        steps, total = self.engine.state.step, self.spec.steps
        lines = [f"{self.spec.task.name}  {self.stack}", f"{self.outcome}, {steps:,} of {total:,} steps"]
        if len(self.losses):
            lines.append(f"training loss  {self.losses[0]:.4g} before, {self.losses[-1]:.4g} after")
        for key, value in self.after.items():
            lines.append(f"test {key}  {self.before.get(key, math.nan):.4g} before, {value:.4g} after")
        if self.hyperparameters:
            lines.append("  ".join(f"{key} {value:.4g}" for key, value in self.hyperparameters.items()))
        return "\n".join([*lines, *([f"folder  {self.folder}"] if self.folder else []), *map(str, self.verdicts)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    def models(self) -> list[nn.Module]:
        """The trained models, one per task."""
        return models(self.engine, settled(self.engine))

    def model(self) -> nn.Module:
        """The trained model of the first task."""
        return self.models()[0]

    def loss_parameters(self) -> dict[str, Tensor]:
        """The parameters of the task's loss where a level moves them, by name; empty where none does."""
        names, slot = self.engine.graph.names.get(LOSS, []), settled(self.engine).slots.get(LOSS)
        return {} if slot is None else {n: p.detach().clone() for n, p in zip(names, slot.params, strict=True)}

    def start(self) -> nn.Module:
        """The first task's model at the learned start, where a level moves it.

        Raises:
            RecoptError: if none does.
        """
        return start_of(self.engine)

    def plot(self) -> Any:
        """A matplotlib figure of the losses and of every level's hyperparameters and steps."""
        levels = level_views(self.engine.graph, found_hyperparameters(self.engine, self.chosen))
        return plot_run(self.trace, self.stack, levels)


def all_frozen(engine: Engine) -> bool:
    """True if the guard lets no task move any more."""
    guard = engine.state.guard
    return guard is not None and guard.still == engine.tasks


def summary(result: Result) -> dict[str, float]:
    """The summary metrics of a run: what runs are compared by, one number per key."""
    losses, total = result.losses, result.budget.total
    found = {
        "final_loss": float(losses[-1]) if len(losses) else float("nan"),
        "best_loss": float(np.nanmin(losses)) if np.isfinite(losses).any() else float("nan"),
        "evaluations": float(total.evaluations),
        "seconds": total.seconds,
        "diverged": float(result.diverged),
        "frozen": float(all_frozen(result.engine)),
    }
    found |= {f"test_{key}": value for key, value in result.after.items()}
    return found | (result.chosen.summary() if result.chosen else {})


def level_summary(engine: Engine) -> dict[int, dict[str, float]]:
    """The budget and the guard's actions of each level (from 1), one number per key.

    Actions on the task are listed with the first level that moves it.
    """
    found: dict[int, dict[str, float]] = {}
    for number, spent in enumerate(engine.budget.levels):
        found[number + 1] = {
            "steps": float(engine.state.levels[number].steps),
            "loss_evaluations": float(spent.loss),
            "gradient_evaluations": float(spent.gradient),
            "hessian_products": float(spent.products),
            "hypergradient_evaluations": float(spent.hypergradient),
            "seconds": spent.seconds,
        }
        found[number + 1] |= {f"{act}_total": float(n) for act, n in engine.state.levels[number].counts.items()}
        guard = engine.state.guard
        if guard is not None and number == engine.graph.movers[TASK][0]:
            found[number + 1] |= {f"{act}_total": float(count) for act, count in guard.counts.items()}
            found[number + 1] |= {"restored_total": float(guard.counts.get("restored", 0))}
            found[number + 1] |= {"frozen_tasks": float(guard.still)}
    return found


def hyperparameters_at(strategy: Strategy, values: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    """The natural value of every hyperparameter at ``values`` of the parameters, by default the strategy's own."""
    values = dict(strategy.named_parameters()) if values is None else values
    natural = strategy.natural({name: value.detach() for name, value in values.items()})
    return {name: as_given(value.item(), torch.finfo(value.dtype).bits) for name, value in natural.items()}


def by_slot(engine: Engine, chosen: Selection | None = None) -> dict[str, float]:
    """The values of :func:`found_hyperparameters`, and what rules tell of their state, keyed by ``slot.name``.

    A rule on several levels tells of its lowest.
    """
    state, graph, found = settled(engine), engine.graph, dict[str, float]()
    for number, values in reversed(found_hyperparameters(engine, chosen).items()):
        name, parts = graph.levels[number - 1].by, state.levels[number - 1].parts
        found = {f"{name}.{key}": value for key, value in values.items()} | found
        found |= told(name, graph.slots[name], graph.names[name], state.slots[name], parts)
    return found


def found_hyperparameters(engine: Engine, chosen: Selection | None = None) -> dict[int, dict[str, float]]:
    """The natural value of every scalar hyperparameter, by the number (from 1) of the level that uses it.

    They are the ``chosen`` values if given, else the current ones.
    """
    found: dict[int, dict[str, float]] = {}
    slots = chosen.values if chosen else {name: slot.params for name, slot in settled(engine).slots.items()}
    for number, level in enumerate(engine.levels, 1):
        values = dict(zip(engine.graph.names[level.by], slots[level.by], strict=True))
        found[number] = hyperparameters_at(engine.graph.slots[level.by], values)
    return found


def level_views(
    graph: Graph, end: Mapping[int, Mapping[str, float]] | None = None,
    spent: Mapping[int, Mapping[str, float]] | None = None,
) -> tuple[LevelView, ...]:  # fmt: skip
    """The levels as plots show them.

    Args:
        end: by number, the hyperparameters found; ``spent``: the figures of :func:`level_summary`.
    """
    views = []
    for number, level in enumerate(graph.levels, 1):
        start = hyperparameters_at(graph.slots[level.by])
        words = how(graph.paces, number - 1)
        views.append(LevelView(number, level.by, target(level), words, start, (end or {}).get(number, {}),
                               (spent or {}).get(number, {}), _ends(graph.slots[level.by])))  # fmt: skip
    return tuple(views)


def _ends(strategy: Strategy) -> dict[str, tuple[float, float]]:
    """The natural values between which those hyperparameters live that have a coordinate with ends."""
    found = {}
    for name, domain in strategy._domains.items():
        low, high = domain.ends()
        if domain.smooth and math.isfinite(low) and math.isfinite(high):
            ends = domain.natural(torch.tensor([low, high], dtype=torch.float64))
            found[name] = (float(ends[0]), float(ends[1]))
    return found
