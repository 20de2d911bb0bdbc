"""The reach of a loss's parameters before a level moves them: what the loss reads, and what its gradient depends on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..checking.errors import Notice, RecoptError
from ..contracts.task import Task
from ..levels.graph import Graph
from ..levels.level import LOSS
from .loss_slot import Held, Weighed, WithParameters, values_of
from .model import twice_differentiable
from .randomness import seeded

NEAR = 0.1
"""The size of a nudge to the model and to the loss's parameters, over the mean size of a tensor (1 if that is less)."""


def bound(graph: Graph, task: Task, model: nn.Module, place: Callable[[Any], Any]) -> Graph:
    """``graph`` with the loss's parameters in their slot, if a level moves them; ``model`` is nobody else's.

    Raises:
        RecoptError: if the task has none, or its training loss reads none.
    """
    if not graph.movers[LOSS]:
        return graph
    if not isinstance(task, WithParameters) or not values_of(task.module):
        raise RecoptError(
            f"Level{graph.title(graph.movers[LOSS][0]).removeprefix('level')}: the task's loss has no parameters: give "
            "the task a method loss_parameters(), and read them in its training_loss()."
        )
    found = values_of(task.module)
    batches = [place(task.batch(index)) for index in range(2)]
    exact = {n: bool(graph.order(n)) and not graph.levels[n].perturbs for n in graph.movers[LOSS]}
    steering = {way: _steering(task, model, batches, way) for way in set(exact.values())}
    read = _read(task, model, batches).union(*steering.values())
    lost = [name for name in found if name not in read]
    if len(lost) == len(found):
        raise RecoptError(
            f"The training loss reads nothing of loss_parameters() ({_named(lost)}): read them in training_loss(), "
            "which is given them as its last argument, without detaching them."
        )
    if lost:
        warnings.warn(
            f"The training loss does not read {_named(lost)}: not moved as long as it does not.", Notice, stacklevel=2
        )
    names = list(found)
    for n, way in exact.items():
        mine = [names[i] for i in graph.moved(n, names)]
        if idle := [name for name in mine if name not in {*lost, *steering[way]}]:
            what, how = ("has no derivative by", ", undetached") if way else ("does not depend on", "")
            warnings.warn(
                f"The gradient of the training loss {what} {_named(idle)} on the first two batches, so that level "
                f"{n + 1} changes nothing in the model by it: let training_loss() multiply it{how} with something that "
                "follows from the model.", Notice, stacklevel=2,
            )  # fmt: skip
    return graph.with_values(LOSS, Held(found))


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _read(task: WithParameters, model: nn.Module, batches: Sequence[Weighed]) -> set[str]:
    """The names of the loss's parameters that the loss has a derivative by, be it 0."""
    found = set[str]()
    for batch in batches:
        leaves = [value.detach().clone().requires_grad_() for value in batch.values]
        with torch.enable_grad():
            loss = task.loss(model, batch._replace(values=leaves))
        found |= {name for name, g in _slopes(task, loss, leaves) if g is not None}
    return found


def _slopes(task: WithParameters, value: Tensor, leaves: Sequence[Tensor]) -> list[tuple[str, Tensor | None]]:
    """By the name of each of the loss's parameters, the derivative of ``value``."""
    grads = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else [None] * len(leaves)
    return list(zip(values_of(task.module), grads, strict=True))


def _steering(task: WithParameters, model: nn.Module, batches: Sequence[Weighed], exact: bool) -> set[str]:
    """The names of the loss's parameters that the gradient of the training loss depends on, near where they start.

    All are nudged together, and the model with them, since one may count only where another is not 0.

    Args:
        exact: whether only that counts which a derivative tells of.
    """
    names, found = set(values_of(task.module)), set[str]()
    params = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in params:
            p.add_(_nudge(p))

    def slope(batch: Weighed, values: list[Tensor]) -> Tensor:
        """The derivative of the training loss along a direction of the model."""
        with seeded(0, params[0].device), torch.enable_grad(), twice_differentiable():
            loss = task.loss(model, batch._replace(values=values))
            grads = torch.autograd.grad(loss, params, create_graph=exact, allow_unused=True)
            return torch.stack([(g * _nudge(g)).sum() for g in grads if g is not None]).sum()

    for batch, sign in product(batches, (1, -1)):
        there = [(value + sign * _nudge(value)).requires_grad_(exact) for value in batch.values]
        try:
            here = slope(batch, there)
            if exact:
                found |= {name for name, g in _slopes(task, here, there) if g is not None and bool(g.any())}
            else:
                back = [[*there[:n], value, *there[n + 1 :]] for n, value in enumerate(batch.values)]
                others = {name: slope(batch, values) for name, values in zip(values_of(task.module), back, strict=True)}
                found |= {name for name, other in others.items() if not torch.equal(other, here)}
        except RuntimeError:  # of a loss that does not reach the model, or not twice: what evaluates it refuses that
            return names
        if found == names:
            break
    return found


def _nudge(like: Tensor) -> Tensor:
    """Noise that is the same each time, large enough to be seen and small enough to stay where ``like`` makes sense."""
    noise = torch.randn(like.shape, generator=Generator().manual_seed(0), dtype=torch.float64)
    return NEAR * max(float(like.detach().abs().double().mean()), 1.0) * noise.to(like)
