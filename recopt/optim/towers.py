"""The towers of one optimizer: which tensors of its groups each moves, and a step of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ..contracts.errors import RecoptError, StateError
from ..contracts.strategy import Params
from ..rules.shards import local, shards_of
from . import groups as grouping
from .driver import Driver
from .losses import one_number
from .points import gradients, place, points_of, write_back
from .stack_graph import Options, Stack, graph_of

Scope = Literal["global", "group", "tensor"]
Groups = Sequence[Mapping[str, Any]]
Member = tuple[int, int]
"""Number of a group, and of a tensor in it."""


class Towers:
    """All towers of an optimizer, and the tensors that each moves.

    Args:
        options: what all towers have in common.
        scope: what shares one set of hyperparameters, and so one tower.

    Attributes:
        all: the towers, in the order they were built.
        members: of each tower, the tensors that it moves, in its own order.
        groups: what each group was made of.
        zero_order: whether they call for losses at points of their own choice, instead of stepping from gradients.
    """

    def __init__(self, options: Options, scope: Scope) -> None:
        self.options, self.scope = options, scope
        self.all: list[Driver] = []
        self.members: list[list[Member]] = []
        self.groups: list[grouping.Made] = []
        self.zero_order = False
        self._asked: list[tuple[Stack, Mapping[str, Any]]] = []

    def cover(self, groups: Groups, stack: Stack, settings: Mapping[str, Any], names: Sequence[str]) -> None:
        """Towers of ``stack`` for the last group: one, or one for each tensor, or (``global``) one that is there.

        Raises:
            RecoptError: for anything unknown or impossible; no tower is added then.
        """
        asked = (stack, dict(settings))
        if self.scope == "global" and asked in self._asked:
            tower = self._join(self._asked.index(asked), groups, names)
        else:
            tower = self._build(asked, groups, names)
        self.groups.append(grouping.made_of(groups[-1], tower))

    def _build(self, asked: tuple[Stack, Mapping[str, Any]], groups: Groups, names: Sequence[str]) -> Driver:
        number = len(groups) - 1
        each = [[i] for i in range(len(names))] if self.scope == "tensor" else [list(range(len(names)))]
        built: list[Driver] = []
        for indices in each:
            graph = graph_of(asked[0], [names[i] for i in indices], self.options, asked[1])
            tensors = [groups[number]["params"][i] for i in indices]
            o, place = self.options, len(self.all) + len(built)
            tower = Driver(graph, points_of(tensors), fused=o.fused, seed=o.seed + place, shards=shards_of(tensors))
            if self.all and tower.zero_order != self.zero_order:
                raise RecoptError(
                    f"Group {number}: a zero-order strategy on level 1 moves the model while it searches, and the "
                    "gradients of the other groups would be those of its trials: give it an optimizer of its own."
                )
            built.append(tower)
        self.all, self.zero_order = [*self.all, *built], built[0].zero_order
        self.members += [[(number, i) for i in indices] for indices in each]
        self._asked += [asked] * len(built)
        return built[0]

    def _join(self, tower: int, groups: Groups, names: Sequence[str]) -> Driver:
        shards_of([p for g in groups for p in g["params"]])
        self.all[tower].extend(names)
        self.members[tower] += [(len(groups) - 1, i) for i in range(len(names))]
        return self.all[tower]

    def tensors(self, groups: Groups) -> list[list[Tensor]]:
        """The tensors that each tower moves, in its own order."""
        return [[groups[g]["params"][i] for g, i in members] for members in self.members]

    def step(
        self, groups: Groups, closure: Callable[[], Any] | None, loss: Tensor | None, held: Mapping[int, Tensor] | None
    ) -> Any:
        """One step of every tower; the first loss of ``closure`` if one of them called it."""
        result = None
        for tower, members, tensors in zip(self.all, self.members, self.tensors(groups), strict=True):
            sign = _sign_of_losses(tower, groups, members)
            if not tower.zero_order:
                _advance(tower, groups, members, tensors, None if loss is None or not sign else sign * loss, held)
                continue
            if closure is None:
                raise StateError(
                    "A zero-order strategy on level 1 scores points of its own choice: call opt.step(closure) with a "
                    "function that computes and returns the loss."
                )
            result = _search(tower, tensors, closure, sign or 1.0)
        return result

    @contextmanager
    def averaged(self, groups: Groups) -> Iterator[None]:
        """The tensors at the towers' evaluation points while it lasts.

        Raises:
            RecoptError: if no tower has any.
        """
        if not any(tower.averages() for tower in self.all):
            raise StateError(
                "No mean is kept here: build the optimizer with average=True, or with a rule that keeps one of its "
                "own, such as 'schedule-free'."
            )
        own = self.tensors(groups)
        before = [[local(p).detach().clone() for p in tensors] for tensors in own]
        try:
            for tower, tensors in zip(self.all, own, strict=True):
                place(tower.eval_points(points_of(tensors)), tensors)
            yield
        finally:
            for tensors, values in zip(own, before, strict=True):
                for p, value in zip(tensors, values, strict=True):
                    local(p).detach().copy_(value)

    def hyperparameters(self) -> dict[str, float]:
        """By name; where there are several towers, after the tower's number."""
        found: dict[str, float] = {}
        for number, tower in enumerate(self.all):
            prefix = f"{number}/" if len(self.all) > 1 else ""
            found |= {f"{prefix}{key}": value for key, value in tower.hyperparameters().items()}
        return found

    def guards(self) -> dict[str, int]:
        """The number of times that each guard acted, over all towers."""
        found: dict[str, int] = {}
        for tower in self.all:
            for key, count in tower.acted().items():
                found[key] = found.get(key, 0) + count
        return found


def _advance(
    tower: Driver, groups: Groups, members: Sequence[Member], tensors: Sequence[Tensor], loss: Tensor | None,
    held: Mapping[int, Tensor] | None,
) -> None:  # fmt: skip
    signs = [-1.0 if groups[g]["maximize"] else 1.0 for g, _ in members]
    grads = gradients([p.grad for p in tensors], tensors, signs)
    after = None
    if held is not None:
        found = gradients([held.get(id(p)) for p in tensors], tensors, signs)
        after = [torch.zeros_like(p) if g is None else g for g, p in zip(found, points_of(tensors), strict=True)]
    points = points_of(tensors)
    # Beside the tensors only where a rule computes with it: to read it back from there would cost a wait.
    known = None if loss is None else loss.to(points[0] if tower.reader else points[0].dtype)
    tower.step(points, grads, _factor(groups, members), known, after)
    write_back(points, tensors)


def _search(tower: Driver, tensors: Sequence[Tensor], closure: Callable[[], Any], sign: float) -> Any:
    """Let zero-order strategies move a model, in place, by the losses that ``closure`` computes; the first loss.

    Args:
        sign: a factor on losses: -1 to maximize.
    """
    points = points_of(tensors)
    still = [not p.requires_grad for p in tensors]
    before = [p.clone() if s else p for p, s in zip(points, still, strict=True)]

    def loss_here() -> Any:
        write_back(points, tensors)
        with torch.enable_grad():
            return closure()

    def score(number: int, candidate: Params) -> Tensor:
        index = tower.tower.slots.index(tower.state, number)
        now = [points[i].clone() for i in index]
        for i, value in zip(index, candidate, strict=True):
            points[i].copy_(before[i] if still[i] else value)
        loss = one_number(loss_here(), "The closure")
        for i, value in zip(index, now, strict=True):
            points[i].copy_(value)
        return sign * loss

    first = loss_here()
    tower.search(points, sign * one_number(first, "The closure"), score)
    for point, value, s in zip(points, before, still, strict=True):
        if s:
            point.copy_(value)
    write_back(points, tensors)
    return first


def _sign_of_losses(tower: Driver, groups: Groups, members: Sequence[Member]) -> float:
    """-1 where the loss is to be maximized; 0 where some groups do and some do not, so that it says nothing."""
    climbs = {bool(groups[g]["maximize"]) for g, _ in members}
    if len(climbs) == 1:
        return -1.0 if climbs.pop() else 1.0
    if tower.needs_loss or tower.zero_order:
        raise RecoptError("Groups with and without maximize share a tower that reads the loss: use scope='group'.")
    return 0.0


def _factor(groups: Groups, members: Sequence[Member]) -> float:
    numbers = list(dict.fromkeys(g for g, _ in members))
    factors = [grouping.factor(groups[g]) for g in numbers]
    if any(abs(f - factors[0]) > 1e-9 * abs(factors[0]) for f in factors):
        raise RecoptError(
            "A scheduler treats the groups differently, but with scope='global' they share one rate: use scope='group'."
        )
    return factors[0]


def held_out(groups: Groups, valid_loss: Any, towers: Sequence[Driver]) -> dict[int, Tensor]:
    """The gradients of a loss on held-out data, by the tensors' identities.

    Raises:
        RecoptError: if it is no number with a graph, or the parameters are sharded.
    """
    tensors = [p for group in groups for p in group["params"] if p.requires_grad]
    if not isinstance(valid_loss, Tensor) or valid_loss.numel() != 1 or not valid_loss.requires_grad:
        raise RecoptError(
            "valid_loss must be one number with its graph: compute it with gradients enabled, without detach() or "
            "item()."
        )
    if any(tower.shards for tower in towers):
        raise RecoptError("valid_loss is not supported for sharded parameters (FSDP2): leave it out.")
    try:
        found = torch.autograd.grad(valid_loss, tensors, allow_unused=True)
    except RuntimeError as why:
        if "second time" not in str(why):
            raise
        raise RecoptError(
            "valid_loss was differentiated already: give a loss of its own, on which backward() was not called."
        ) from None
    return {id(p): g for p, g in zip(tensors, found, strict=True) if g is not None}
