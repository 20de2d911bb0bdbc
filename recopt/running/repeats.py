"""Repeated runs of one competitor, one for each task; independent ones run side by side in one engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checking.errors import RecoptError
from ..contracts import trees
from ..contracts.settings import plain_name
from ..contracts.strategy import Strategy
from ..contracts.task import Task
from ..engine.engine import STRETCH, Engine
from ..engine.measure import measure_each, settled
from ..levels.graph import Graph
from ..levels.level import TASK, Level
from ..stacks.failures import RunFailed, culprit, failure_message

Floats = NDArray[np.float64]
CAP = 100.0
"""The cap on losses, as a multiple of the run's first loss; a loss that is not finite counts as the cap."""
DIVERGED = 10.0
"""A run has diverged if its last loss is not finite, or exceeds this multiple of the first."""
_AT_ONCE = 1000
_NUMBERS = 8_000_000
"""The most numbers that the batches and models of tasks side by side may hold."""
_LEARNED = 16
"""A rough factor: numbers per coordinate in a learned rule, relative to other rules."""


class RunSettings(NamedTuple):
    """Settings of the run on each task.

    ``budget`` is what ``steps`` counts: updates, or evaluations of the task, those of trials included.
    """

    steps: int
    device: str = "cpu"
    dtype: str = "float32"
    budget: str = "steps"


@dataclass(frozen=True)
class Runs:
    """N runs of one competitor.

    Attributes:
        losses: the training loss at θ_0 … θ_T, shape (N, T + 1), not capped; where evaluations are counted, after each
            of T of them.
        test: loss and metrics on the ``test`` split at the end, each of shape (N,); empty if not measured.
        evaluations: of losses and gradients, Hessian-vector products included, per run, without those at θ_T and on
            held-out data.
        hypergradients: per run.
        seconds: total.
        restored: total number of restores by guards.
        times: number of trainings of the rule; each training ran the same N / ``times`` tasks.
    """

    losses: Floats
    test: Mapping[str, Floats]
    evaluations: float
    hypergradients: float
    seconds: float
    restored: int
    times: int = 1

    def by_task(self, values: Floats) -> Floats:
        """``values`` (N,), one per run, reshaped to (times, tasks)."""
        return values.reshape(self.times, -1)

    @property
    def capped(self) -> Floats:
        """The losses, at most ``CAP`` times the run's first loss; those that are not finite are set to this cap."""
        return _capped(self.losses, self._top[:, None])

    @property
    def measured(self) -> dict[str, Floats]:
        """``test`` with its ``loss`` capped likewise; metrics that are not finite stay so."""
        return {key: _capped(values, self._top) if key == "loss" else values for key, values in self.test.items()}

    @property
    def _top(self) -> Floats:
        top: Floats = CAP * np.maximum(np.abs(self.losses[:, 0]), 1e-12)
        return top

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """The mask of diverged runs (see ``DIVERGED``), shape (N,)."""
        return has_diverged(self.losses)

    def score(self, measure: str) -> Floats:
        """The score of each run, shape (N,): the sum of the losses at θ_0 … θ_{T−1}, or the loss at θ_T.

        The sum is that of Andrychowicz et al. 2016 (1606.04474): T steps take T evaluations.
        """
        return self.capped[:, :-1].sum(1) if measure == "sum" else self.capped[:, -1]


def has_diverged(losses: Floats) -> NDArray[np.bool_]:
    """The mask of the runs that have diverged (see ``DIVERGED``), of their ``losses`` (…, steps)."""
    first, last = np.abs(losses[..., 0]), losses[..., -1]
    with np.errstate(invalid="ignore"):
        return np.asarray(~np.isfinite(last) | (last > DIVERGED * np.maximum(first, 1e-12)))


def _capped(values: Floats, top: Floats) -> Floats:
    return np.minimum(np.where(np.isfinite(values), values, np.inf), top)


class SeededTasks(Task):
    """A task whose draw is the tasks of ``family`` with the given seeds."""

    def __init__(self, family: Task, seeds: Sequence[int]) -> None:
        super().__init__(seed=seeds[0])
        self._family, self._seeds = family, list(seeds)

    def draw(self, seeds: Sequence[int]) -> list[Task]:
        return self._family.draw(self._seeds)

    def to(self, device: torch.device | str) -> Self:
        self._family.to(device)
        return self


def fixed(levels: Sequence[Level], strategies: Mapping[str, Strategy], guards: bool = False) -> Graph:
    """A graph of the levels that move the task, so ``strategies`` keep their values; levels above are left out."""
    own = [level.model_copy(update={"guard": guards and level.guard}) for level in levels if level.moves == TASK]
    return Graph(own, {level.by: strategies[level.by] for level in own})


def held_at(
    levels: Sequence[Level], strategies: Mapping[str, Strategy], values: Mapping[str, Sequence[Tensor]],
    guards: bool = False,
) -> Graph:  # fmt: skip
    """As :func:`fixed`, with copies of the strategies set to ``values``, by slot."""
    copies: dict[str, Strategy] = {}
    for name in sorted({level.by for level in levels if level.moves == TASK}):
        made = copies[name] = copy.deepcopy(strategies[name])
        with torch.no_grad():
            for parameter, value in zip(made.parameters(), values[name], strict=True):
                parameter.copy_(value)
    return fixed(levels, copies, guards)


def run_all(
    name: str, graph: Graph, task: Task, seeds: Sequence[int], how: RunSettings, *, test: bool = True,
    progress: Callable[[int], None] = lambda done: None,
) -> Runs:  # fmt: skip
    """Run ``graph`` on the task of each seed; ``progress`` is called with the number of finished runs.

    Raises:
        RecoptError: for a graph, task or device that cannot work.
        RunFailed: for an error in a strategy or task.
    """
    parts, done = list[Runs](), 0
    for chunk in chunks(name, graph, task, seeds):
        parts.append(run_chunk(name, graph, task, chunk, how, test))
        done += len(chunk)
        progress(done)
    return joined(parts, len(seeds))


def chunks(name: str, graph: Graph, task: Task, seeds: Sequence[int]) -> list[Sequence[int]]:
    """The seeds of the tasks that share an engine. Errors are those of :func:`run_all`."""
    with _blamed(name, graph, task, seeds[0]):
        size = side_by_side(graph, task, len(seeds))
    return [seeds[at : at + size] for at in range(0, len(seeds), size)]


def run_chunk(name: str, graph: Graph, task: Task, seeds: Sequence[int], how: RunSettings, test: bool) -> Runs:
    """Run the tasks of one chunk; evaluations are those of all its runs. Errors are those of :func:`run_all`."""
    with _blamed(name, graph, task, seeds[0]):
        return _run(graph, task, seeds, how, test)


@contextmanager
def _blamed(name: str, graph: Graph, task: Task, seed: int) -> Iterator[None]:
    try:
        yield
    except RecoptError:
        raise
    except (Exception, SystemExit) as why:
        raise RunFailed(_failure(why, name, graph, task, seed)) from why


def _failure(why: BaseException, name: str, graph: Graph, task: Task, seed: int) -> str:
    """The message of a failed run, which names the task or the strategy at fault if it can be found."""
    strategies = {type(strategy) for strategy in graph.slots.values()}
    guilty = culprit(why, [type(task), *strategies])
    if guilty is type(task):
        when = f"The task '{plain_name(guilty)}', run by '{name}' from seed {seed},"
    elif guilty is not None:
        when = f"'{name}', on tasks from seed {seed},"
    else:
        when = f"The run of '{name}' on tasks from seed {seed}"
    return f"{failure_message(why, when, [guilty] if guilty else [type(task), *strategies])}."


def side_by_side(graph: Graph, task: Task, count: int) -> int:
    """The number of tasks that can share an engine while their runs stay independent.

    It is 1 with levels above the first, which tune one set of strategies; with strategies that draw random numbers;
    and for families whose tasks differ in structure.
    """
    shared = any(level.moves != TASK for level in graph.levels)
    draws = any(not strategy.vectorize or strategy.order == 0 for strategy in graph.slots.values())
    if shared or draws or type(task).draw is not Task.draw or not task.vectorize:
        return 1
    with torch.random.fork_rng(devices=[]):
        model = sum(p.numel() for p in task.model().parameters())
    if any(strategy.learned for strategy in graph.slots.values()):
        model *= _LEARNED
    numbers = model + sum(leaf.numel() for leaf in trees.tensors(task.batch(0, "train")))
    return max(1, min(_AT_ONCE, count, _NUMBERS // numbers))


def _run(graph: Graph, task: Task, seeds: Sequence[int], how: RunSettings, test: bool) -> Runs:
    """Run the tasks of ``seeds`` in one engine."""
    found: dict[int, Tensor] = {}

    def sink(level: int, step: int, values: Mapping[str, Any]) -> None:
        if level == 0 and "losses" in values:
            found[step] = values["losses"]

    engine = Engine(
        SeededTasks(task, seeds), graph, seed=seeds[0], tasks=len(seeds), device=torch.device(how.device),
        dtype=getattr(torch, how.dtype), sink=sink, each=True,
    )  # fmt: skip
    made = _advance(engine, how)
    engine.flush()
    slot = engine.state.task
    at, batch = engine.tower.bottom.eval_points(engine.state), engine.evaluator.batch(slot, slot.seen, "train")
    with engine.stream:
        last = engine.evaluator.value(slot, at, batch)
    columns = [*(found[step].reshape(-1).double() for step in range(made)), last.reshape(-1).double()]
    losses = torch.stack([columns[n * made // how.steps] for n in range(how.steps + 1)], dim=1)
    held = measure_each(engine, "test", settled(engine)) if test else []
    total = engine.budget.total
    return Runs(
        losses.cpu().numpy(), {key: np.array([one[key] for one in held]) for key in (held[0] if held else {})},
        total.evaluations, total.hypergradient, total.seconds,
        engine.state.guard.counts.get("restored", 0) if engine.state.guard else 0,
    )  # fmt: skip


def _advance(engine: Engine, how: RunSettings) -> int:
    """Run until the budget is spent; the number of updates made."""
    if how.budget == "steps":
        engine.run(how.steps)
    else:
        whole = how.steps * engine.tasks
        while (left := whole - engine.budget.total.evaluations) > 0:
            engine.step(max(1, min(STRETCH, left // engine.tasks)))
    return engine.state.step


def repeated(parts: Sequence[Runs]) -> Runs:
    """Join the runs of a rule that was trained several times; each part has the same tasks in the same order."""
    return replace(joined(parts, len(parts)), times=len(parts))


def joined(parts: Sequence[Runs], count: int) -> Runs:
    """Join parts of ``count`` runs, which have the evaluations of all of theirs."""
    keys = [key for key in parts[0].test if all(key in part.test for part in parts)]
    return Runs(
        np.concatenate([part.losses for part in parts]),
        {key: np.concatenate([part.test[key] for part in parts]) for key in keys},
        sum(part.evaluations for part in parts) / count, sum(part.hypergradients for part in parts) / count,
        sum(part.seconds for part in parts), sum(part.restored for part in parts),
    )  # fmt: skip
