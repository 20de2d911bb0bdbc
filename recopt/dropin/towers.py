"""The towers of one optimizer: which tensors of its groups each moves, and a step of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import RecoptError
from . import groups as grouping
from .plan import Options, Stack, plan
from .points import gradients, points_of, write_back
from .shards import shards_of
from .tower import Tower

Scope = Literal["global", "group", "tensor"]
Groups = Sequence[Mapping[str, Any]]
Member = tuple[int, int]
"""Number of a group, and of a tensor in it."""


class Towers:
    """What an optimizer is made of.

    Args:
        options: what all towers have in common.
        scope: what shares one set of hyperparameters, and so one tower.

    Attributes:
        all: the towers, in the order they were built.
        members: of each tower, the tensors that it moves, in its own order.
    """

    def __init__(self, options: Options, scope: Scope) -> None:
        self.options, self.scope = options, scope
        self.all: list[Tower] = []
        self.members: list[list[Member]] = []

    def cover(self, groups: Groups, stack: Stack, settings: Mapping[str, Any], names: Sequence[str]) -> None:
        """Towers of ``stack`` for the last group: one, or one for each tensor."""
        number = len(groups) - 1
        each = [[i] for i in range(len(names))] if self.scope == "tensor" else [list(range(len(names)))]
        for indices in each:
            graph = plan(stack, [names[i] for i in indices], self.options, settings)
            tensors = [groups[number]["params"][i] for i in indices]
            o = self.options
            self.all.append(
                Tower(graph, points_of(tensors), fused=o.fused, guard=o.guard, seed=o.seed + len(self.all),
                      shards=shards_of(tensors))
            )  # fmt: skip
            self.members.append([(number, i) for i in indices])

    def join(self, groups: Groups, names: Sequence[str]) -> None:
        """The last group's tensors go to the first tower."""
        shards_of([p for g in groups for p in g["params"]])
        self.all[0].extend(names)
        self.members[0] += [(len(groups) - 1, i) for i in range(len(names))]

    def start_rate(self, number: int) -> float:
        """What a scheduler sees at first as the rate of group ``number``."""
        its = next(t for t, m in zip(self.all, self.members, strict=True) if any(g == number for g, _ in m))
        return grouping.start_lr(its)

    def closed(self) -> bool:
        """Whether all can step from gradients, and none has to call for losses at points of its own choice."""
        return not any(tower.zero_order for tower in self.all)

    def step(
        self, groups: Groups, closure: Callable[[], Any] | None, loss: Tensor | None, held: Mapping[int, Tensor] | None
    ) -> Any:
        """One step of every tower; the first loss of ``closure`` if one of them called it."""
        result = None
        for tower, members in zip(self.all, self.members, strict=True):
            tensors = [groups[g]["params"][i] for g, i in members]
            if not tower.zero_order:
                _advance(tower, groups, members, tensors, loss, held)
                continue
            if closure is None:
                raise RecoptError(
                    "A zero-order strategy on level 1 scores points of its own choice: call opt.step(closure) with a "
                    "function that computes and returns the loss."
                )
            result = tower.search(tensors, closure)
        return result

    def hyperparameters(self) -> dict[str, float]:
        """By name; where there are several towers, after the tower's number."""
        found = {}
        for number, tower in enumerate(self.all):
            prefix = f"{number}/" if len(self.all) > 1 else ""
            for name, slot in tower.slots.items():
                for key, value in slot.naturals().items():
                    if not isinstance(value, Tensor):
                        found[f"{prefix}{name}.{key}"] = value
        return found

    def guards(self) -> dict[str, int]:
        """How often the guards acted, over all towers."""
        found: dict[str, int] = {}
        for tower in self.all:
            for key, count in tower.acted().items():
                found[key] = found.get(key, 0) + count
        return found


def _advance(
    tower: Tower, groups: Groups, members: Sequence[Member], tensors: Sequence[Tensor], loss: Tensor | None,
    held: Mapping[int, Tensor] | None,
) -> None:  # fmt: skip
    signs = [-1.0 if groups[g]["maximize"] else 1.0 for g, _ in members]
    grads = gradients([p.grad for p in tensors], tensors, signs)
    after = None
    if held is not None:
        found = gradients([held.get(id(p)) for p in tensors], tensors, signs)
        after = [torch.zeros_like(p) if g is None else g for g, p in zip(found, points_of(tensors), strict=True)]
    points = points_of(tensors)
    tower.step(points, grads, _factor(groups, members), loss, after)
    write_back(points, tensors)


def _factor(groups: Groups, members: Sequence[Member]) -> float:
    numbers = list(dict.fromkeys(g for g, _ in members))
    factors = [grouping.factor(groups[g]) for g in numbers]
    if any(abs(f - factors[0]) > 1e-9 * abs(factors[0]) for f in factors):
        raise RecoptError(
            "A scheduler treats the groups differently, but with scope='global' they share one rate: use scope='group'."
        )
    return factors[0]


def held_out(groups: Groups, valid_loss: Tensor, sharded: bool) -> dict[int, Tensor]:
    """The gradients of a loss on held-out data, by the tensors' identities.

    Raises:
        RecoptError: if it has no graph, or the parameters are sharded.
    """
    tensors = [p for group in groups for p in group["params"] if p.requires_grad]
    if not valid_loss.requires_grad:
        raise RecoptError("valid_loss carries no graph: compute it with gradients enabled, without detach().")
    if sharded:
        raise RecoptError("valid_loss is not supported for sharded parameters (FSDP2): leave it out.")
    found = torch.autograd.grad(valid_loss, tensors, allow_unused=True)
    return {id(p): g for p, g in zip(tensors, found, strict=True) if g is not None}
