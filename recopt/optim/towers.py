"""The towers of one optimizer: which tensors of its groups each moves, and a step of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..checking.errors import RecoptError, StateError, unknown
from ..checking.numbers import as_given
from ..contracts.strategy import Params
from ..levels.graph import Graph
from ..levels.level import TASK
from ..rules.shards import shards_of
from ..stacks.places import shipped_folder
from ..stacks.plugins import load_strategy
from .driver import Driver, level_of_the_caller
from .groups import Groups, Made, factor, later, settings_of
from .points import check_together, gradients, one_number, points_of, write_back
from .stack_graph import DEFAULT_STACK, Options, Stack, graph_of, settable

Scope = Literal["global", "group", "tensor", "coordinate"]
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
        spans: of each tower, the numbers of the groups that those are in.
        groups: what each group was made of.
        zero_order: whether they call for losses at points of their own choice, instead of stepping from gradients.
    """

    def __init__(self, options: Options, scope: Scope) -> None:
        self.options, self.scope = options, scope
        self.all: list[Driver] = []
        self.members: list[list[Member]] = []
        self.spans: list[list[int]] = []
        self.groups: list[Made] = []
        self.zero_order = False

    def cover(self, groups: Sequence[dict[str, Any]], stack: Stack, common: Mapping[str, Any]) -> None:
        """Make towers of ``stack`` for the last group, whose settings are taken out of it; set its rate.

        Args:
            common: settings of the strategies of level 1 that all groups of the stack have.

        Raises:
            RecoptError: for anything unknown or impossible; no tower is added then.
        """
        number, group = len(groups) - 1, groups[-1]
        known = settable(stack, self.options.plugins)
        given = group.get("lr")
        if "steps" in common and "steps" not in known:
            raise RecoptError(
                f"steps={common['steps']!r} is for rules whose course depends on the run's length, such as 'paced', "
                "the default: leave the stack out, or use a torch.optim.lr_scheduler."
            )
        settings = settings_of(group, common, known)
        given = settings.get("lr") if given is None else given
        asked = settings.get("lr")
        if isinstance(asked, int | float) and asked == 0:  # as torch has it: nothing moves until the rate is set
            if "lr" not in known:
                raise unknown("setting", "lr", known, f"of group {number}")
            del settings["lr"]
        unread = settings.pop("lr", None) if stack is None else None
        if unread is not None:
            _check_unread(unread, number)
        names = tuple(group.get("param_names") or [f"{number}.{i}" for i in range(len(group["params"]))])
        rate = self._build(groups, Made(tuple(group["params"]), names, stack, settings, later(known)))
        group["lr_start"] = float(settings.get("lr", rate) if unread is None else unread)
        group["lr"] = group["lr_start"] if given is None else given

    def follow(self, groups: Groups) -> None:
        """Build all towers anew, over the tensors that the groups hold by now."""
        anew = Towers(self.options, self.scope)
        for number, (group, was) in enumerate(zip(groups, self.groups, strict=True), 1):
            made = Made(tuple(group["params"]), was.names, was.stack, was.settings, was.later)
            anew._build(groups[:number], made)
        self.all, self.members, self.spans, self.groups = anew.all, anew.members, anew.spans, anew.groups

    def _build(self, groups: Groups, made: Made) -> float:
        """Towers for the last group: one, or one for each tensor, or (``global``) one that is there; its rate."""
        number = len(groups) - 1
        first = {id(p): i for i, p in reversed(list(enumerate(made.params))) if not _quantized(p)}
        whole = sorted(first.values())
        each = [[i] for i in whole] if self.scope == "tensor" else [whole] if whole else []
        rate, built = 1.0, list[Driver]()
        asked = (made.stack, made.settings)
        alike = [n for n, x in enumerate(self.groups) if x.params and (x.stack, x.settings) == asked]
        if self.scope == "global" and whole and alike:
            shards_of([p for g in groups for p in g["params"]])
            check_together([p for g in (*alike, number) for p in groups[g]["params"]])
            tower = next(n for n, members in enumerate(self.members) if members[0][0] == alike[0])
            graph = self.all[tower].graph
            graph.names[TASK] = [*graph.names[TASK], *(made.names[i] for i in whole)]
            self.members[tower] += [(number, i) for i in whole]
            self.spans[tower].append(number)
            each, rate = [], _rate(graph)
        for indices in each:
            graph, tensors = _graph_over(indices, made, groups, self.options), [made.params[i] for i in indices]
            check_together(tensors)
            rate, seed = _rate(graph), self.options.seed + len(self.all) + len(built)
            driver = Driver(graph, points_of(tensors), fused=self.options.fused, seed=seed, shards=shards_of(tensors))
            if self.all and driver.zero_order != self.zero_order:
                raise RecoptError(
                    f"Group {number}: a zero-order strategy on level 1 moves the model while it searches, and the "
                    "gradients of the other groups would be those of its trials: give it an optimizer of its own."
                )
            built.append(driver)
        if built:
            self.zero_order = built[0].zero_order
        self.all = [*self.all, *built]
        self.members += [[(number, i) for i in indices] for indices in each]
        self.spans += [[number] for _ in each]
        self.groups.append(made)
        return rate

    def tensors(self, groups: Groups) -> list[list[Tensor]]:
        """The tensors that each tower moves, in its own order."""
        return [[groups[g]["params"][i] for g, i in members] for members in self.members]

    def step(
        self, groups: Groups, closure: Callable[[], Any] | None, loss: Tensor | None, held: Mapping[int, Tensor] | None
    ) -> Any:
        """One step of every tower; the first loss of ``closure`` if one of them called it."""
        result = None
        for number, (tower, tensors) in enumerate(zip(self.all, self.tensors(groups), strict=True)):
            span = [groups[g] for g in self.spans[number]]
            sign = _sign_of_losses(tower, span)
            if not tower.zero_order:
                signs = [-1.0 if groups[g]["maximize"] else 1.0 for g, _ in self.members[number]]
                known = None if loss is None or not sign else sign * loss
                _advance(tower, tensors, signs, _factor(span), known, held)
                continue
            if closure is None:
                raise StateError(
                    "A zero-order strategy on level 1 scores points of its own choice: call opt.step(closure) with a "
                    "function that computes and returns the loss."
                )
            result = _search(tower, tensors, closure, sign or 1.0)
        return result

    @property
    def needs_loss(self) -> bool:
        """True if a step asks for the loss."""
        return any(tower.needs_loss for tower in self.all)

    @property
    def averages(self) -> bool:
        """True if a tower would have the model used elsewhere than where it trains."""
        return any(tower.averages for tower in self.all)

    def mean(self, groups: Groups) -> dict[Tensor, Tensor]:
        """By tensor, the points at which the towers would have the model used, in the form of :func:`points_of`."""
        found: dict[Tensor, Tensor] = {}
        for tower, tensors in zip(self.all, self.tensors(groups), strict=True):
            if tower.averages:
                found |= dict(zip(tensors, tower.eval_points(points_of(tensors)), strict=True))
        return found

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


def _check_unread(rate: object, number: int) -> None:
    """Warn that the default reads no rate. Raises RecoptError for what could be none."""
    load_strategy(DEFAULT_STACK, str(shipped_folder("strategies")))(lr=rate)
    warnings.warn(
        f"Group {number} has lr={rate!r}, which recopt's default does not read: it finds its rate itself (what a "
        "scheduler makes of lr acts). To set one, name a stack: recopt.Optimizer(params, 'adam', lr=…).",
        RuntimeWarning,
        stacklevel=level_of_the_caller(),
    )


def _graph_over(indices: Sequence[int], made: Made, groups: Groups, options: Options) -> Graph:
    """The graph over some of a group's tensors."""
    try:
        return graph_of(made.stack, [made.names[i] for i in indices], options, made.settings)
    except RecoptError as why:
        if "matches no parameter of 'task'" not in str(why) or "param_names" in groups[-1]:
            raise
        raise RecoptError(
            "The stack's patterns are of names, which these parameters do not have: pass model.named_parameters() "
            f"instead of model.parameters(). {why}"
        ) from None


def _rate(graph: Graph) -> float:
    """The learning rate that the first strategy starts with; 1 if it has none."""
    first: Any = graph.slots[graph.levels[graph.movers[TASK][0]].by]
    return as_given(first.lr.item() if "lr" in first._domains else 1.0)


def _advance(
    tower: Driver, tensors: Sequence[Tensor], signs: Sequence[float], scale: float, loss: Tensor | None,
    held: Mapping[int, Tensor] | None,
) -> None:  # fmt: skip
    grads = gradients([p.grad for p in tensors], tensors, signs)
    points, after = points_of(tensors), None
    if held is not None:
        found = gradients([held.get(id(p)) for p in tensors], tensors, signs)
        after = [torch.zeros_like(p) if g is None else g for g, p in zip(found, points, strict=True)]
    # Beside the tensors only where a rule computes with it: to read it back from there would cost a wait.
    known = None if loss is None else loss.to(points[0] if tower.reader else points[0].dtype)
    tower.step(points, grads, scale, known, after)
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
    loss = sign * one_number(first, "The closure")
    tower.search(points, loss, lambda number, each: [score(number, candidate) for candidate in each])
    for point, value, s in zip(points, before, still, strict=True):
        if s:
            point.copy_(value)
    write_back(points, tensors)
    return first


def _quantized(p: Tensor) -> bool:
    """True for a model's weights in whole numbers, which never have a gradient: they stay aside."""
    return isinstance(p, nn.Parameter) and not (p.is_floating_point() or p.is_complex())


def _sign_of_losses(tower: Driver, groups: Groups) -> float:
    """-1 where the loss is to be maximized; 0 where some groups do and some do not, so that it says nothing."""
    climbs = {bool(group["maximize"]) for group in groups}
    if len(climbs) == 1:
        return -1.0 if climbs.pop() else 1.0
    if tower.needs_loss or tower.zero_order:
        raise RecoptError("Groups with and without maximize share a tower that reads the loss: use scope='group'.")
    return 0.0


def _factor(groups: Groups) -> float:
    first, *others = map(factor, groups)
    if any(abs(f - first) > 1e-9 * abs(first) for f in others):
        raise RecoptError(
            "A scheduler treats the groups differently, but with scope='global' they share one rate: use scope='group'."
        )
    return first
