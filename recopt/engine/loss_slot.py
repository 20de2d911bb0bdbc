"""The slot ``loss``: parameters of a task's loss or data, moved by a level and read by every training loss.

Their values travel with the batch, so that all ways of evaluating a task (mapped over tasks, in place, with a graph)
serve a loss with parameters as they serve any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError
from ..contracts.strategy import Params, Strategy
from ..contracts.task import Batch, Split, Task
from ..levels.level import LOSS
from ..levels.state import RunState

FEW = 20
"""Numbers of a parameter that are recorded one by one."""


class Weighed(NamedTuple):
    """A batch with the values of the loss's parameters; ``held``: it is scored by the held-out loss."""

    batch: Any
    values: list[Tensor]
    held: bool = False


class Held(Strategy):
    """Values in the place of a strategy's parameters: they are moved, and move nothing."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        for name, value in values.items():  # whose names may have dots
            self._parameters[name] = nn.Parameter(value.detach().clone())


class WithParameters(Task):
    """A task whose training loss reads parameters of its own.

    Training batches come with the values that ``module`` was made with, until :func:`weigh` puts others in their place.
    """

    def __init__(self, inner: Task, module: nn.Module) -> None:
        super().__init__(seed=inner.seed)
        self.inner, self.module = inner, module
        self.vectorize, self.metric, self.higher_is_better = inner.vectorize, inner.metric, inner.higher_is_better
        self._call = _Call(module)

    def model(self) -> nn.Module:
        return self.inner.model()

    def batch(self, index: int, split: Split = "train") -> Batch:
        found = self.inner.batch(index, split)
        return Weighed(found, list(values_of(self.module).values())) if split == "train" else found

    def batches(self, split: Split) -> int:
        return self.inner.batches(split)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if not isinstance(batch, Weighed):
            return self.inner.loss(model, batch)
        given = {f"held.{name}": value for name, value in zip(values_of(self.module), batch.values, strict=True)}
        loss: Tensor = torch.func.functional_call(self._call, given, (self.inner, model, batch))
        return loss

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.inner.metrics(model, batch)


class _Call(nn.Module):
    """The loss of a task at other values of its parameters."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, task: Task, model: nn.Module, weighed: Weighed) -> Tensor:
        loss = task.held_out_loss if weighed.held else task.training_loss
        return loss(model, weighed.batch, self.held)


def values_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a loss that may be moved, by name."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def wrapped(tasks: Sequence[Task], module: nn.Module | None) -> list[Task]:
    """``tasks`` with the loss's parameters; as they are without any.

    Raises:
        RecoptError: if one of them has other parameters than the first task of the run.
    """
    if module is None:
        return list(tasks)
    mine = {name: value.shape for name, value in values_of(module).items()}
    for task in tasks:
        other = task.loss_parameters()
        if other is None or {name: value.shape for name, value in values_of(other).items()} != mine:
            raise RecoptError(
                "The tasks of this family have loss_parameters() of different names or shapes, and all share one slot: "
                "let each give the same."
            )
    return [WithParameters(task, module) for task in tasks]


def weigh(state: RunState, batch: Any, place: Callable[[Any], Any], held: bool = False) -> Any:
    """``batch``, of one task or a list of many, with present values of the loss's parameters, if a level moves them."""
    slot = state.slots.get(LOSS)
    if slot is None:
        return batch
    many = isinstance(batch, list)
    plain = [one.batch if isinstance(one, Weighed) else one for one in (batch if many else [batch])]
    values: Params = place(slot.params)
    found = [Weighed(one, values, held) for one in plain]
    return found if many else found[0]


def recorded(names: Sequence[str], values: Params) -> dict[str, Any]:
    """The values by name for the record: each number of a few, else their mean, deviation and extremes."""
    found: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        numbers = value.detach().reshape(-1)
        if len(numbers) == 1:
            found[f"loss.{name}"] = numbers[0]
        elif len(numbers) <= FEW:
            found |= {f"loss.{name}.{n}": number for n, number in enumerate(numbers.unbind())}
        else:
            figures = {"mean": numbers.mean(), "std": numbers.std(), "min": numbers.min(), "max": numbers.max()}
            found |= {f"loss.{name}.{key}": figure for key, figure in figures.items()}
    return found
