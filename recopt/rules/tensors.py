"""Any strategy at work on tensors, by its own ``forward``; mapped over tasks if there are many."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..contracts import trees
from ..contracts.strategy import Params, State, Strategy, Trial
from ..levels.counts import closed, has_counts, opened
from ..levels.level import Level
from ..levels.registry import TRANSFORMS
from ..levels.state import Signal
from ..levels.transforms import bounded


@dataclass
class Step:
    """A strategy's answer: deltas, its next states, and the signal as it was to read it, and as it left that."""

    delta: Params
    strategy: State
    normal: State
    signal: Params
    left: Params


class Loaded:
    """A strategy's module, called with any values of its parameters; its own are left aside."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._places: list[tuple[dict[str, Any], str]] = [
            (m._parameters, name) for m in strategy.modules() for name, p in m._parameters.items() if p is not None
        ]
        self._own = [p for owner, name in self._places if (p := owner[name]) is not None]
        self._recurrent: list[Any] = [m for m in strategy.modules() if isinstance(m, nn.RNNBase)]

    def at(self, values: Params) -> Any:
        """The strategy with its parameters, in the order of ``parameters()``, at ``values``."""
        for (owner, name), value in zip(self._places, values, strict=True):
            owner[name] = value
        for module in self._recurrent:  # which keep their weights in a list besides
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
        return self.strategy

    def leave(self) -> None:
        """Give the strategy its own parameters back, so that it can be copied."""
        self.at(self._own)


class TensorMover:
    """A strategy at work on tensors; ``rows``: where each task has values of its parameters of its own."""

    def __init__(self, strategy: Strategy, rows: bool = False) -> None:
        self.strategy, self.rows = copy.deepcopy(strategy), rows
        self.loaded = Loaded(self.strategy)
        self._asks = False  # what a count of steps is, where tasks differ in it

    def begin(self, point: Params, tasks: int = 0) -> State:
        """The strategy's state before the first step at ``point``, over tasks if there are any side by side."""
        if not tasks:
            return trees.detach(self.strategy.init([p.detach().clone() for p in point]))
        return trees.stack([self.strategy.init([p[n].detach() for p in point]) for n in range(tasks)])

    def eval_point(self, values: Params, point: Params, state: State, tasks: int = 0) -> Params:
        """The points at which the strategy would have each task's model used."""
        module = self.loaded.at(values)

        def one(point: Params, state: State) -> Params:
            return list(module.eval_point(point, opened(state, None)))

        with torch.no_grad():
            return over_tasks(one, (point, state), tasks, False)  # type: ignore[no-any-return]

    def step(
        self, values: Params, level: Level, point: Params, signal: Signal, strategy: State, normal: State,
        rng: Generator, tasks: int = 0, closely: bool = False,
    ) -> Step:  # fmt: skip
        """A first-order strategy's step at ``point`` on ``signal``; ``closely``: with the signal as it left that."""
        normalize = TRANSFORMS[level.normalize or "none"]
        by_turns = tasks > 0 and has_counts((strategy, normal))
        # Steps at which all tasks have one count stay mapped, so that they do not depend on what was found out before.
        mapped = self.strategy.vectorize and not (by_turns and self._asks)

        module = None if self.rows else self.loaded.at(values)

        def one(own: Params, point: Params, loss: Any, grads: Params, states: tuple[State, State]) -> tuple[Any, ...]:
            strategy, normal = opened(states, point[0].dtype if mapped else None) if by_turns else states
            read, after = normalize(grads, normal, signal.bound)
            handed = [r.clone() for r in read] if closely else read
            rule = self.loaded.at(own) if module is None else module
            delta, state = rule(point, [Trial(point, loss, handed)], strategy, rng)
            if level.trust is not None:
                delta = bounded(delta, point, level.trust)
            return (delta, *(closed(states, (state, after)) if by_turns else (state, after)), read,
                    handed if closely else [])  # fmt: skip

        arguments = (values if self.rows else [], point, signal.loss, signal.grads, (strategy, normal))
        try:
            return Step(*over_tasks(one, arguments, tasks, mapped))
        except (RuntimeError, TypeError):
            # A rule may ask its count of steps for more than arithmetic, which needs a plain number.
            if not (by_turns and mapped):
                raise
            self._asks, mapped = True, False
            return Step(*over_tasks(one, arguments, tasks, False))

    def search(
        self, values: Params, point: Params, loss: Any, scores: Callable[[list[Params]], Sequence[Tensor]],
        strategy: State, rng: Generator, tasks: int = 0,
    ) -> tuple[Params, State]:  # fmt: skip
        """A zero-order strategy's step at ``point``, after scoring the points it proposes (None: ``loss`` unknown)."""
        module = self.loaded.at(values)

        def propose(point: Params, strategy: State) -> list[Params]:
            return list(module.propose(point, opened(strategy, None), rng))

        def decide(point: Params, strategy: State, points: list[Params], losses: list[Tensor]) -> tuple[Params, State]:
            trials = [Trial(p, x) for p, x in zip(points, losses, strict=True)]
            delta, after = module(point, trials, opened(strategy, None), rng)
            return delta, closed(strategy, after)

        found: list[Params] = over_tasks(propose, (point, strategy), tasks, False)
        same = [all(torch.equal(a, b) for a, b in zip(candidate, point, strict=True)) for candidate in found]
        known = [loss if mine and loss is not None else None for mine in same]
        others = iter(scores([candidate for candidate, x in zip(found, known, strict=True) if x is None]))
        losses = [next(others) if x is None else x for x in known]
        delta, after = over_tasks(decide, (point, strategy, found, losses), tasks, False)
        return delta, after


def over_tasks(fn: Callable[..., Any], arguments: Sequence[Any], tasks: int, vectorize: bool) -> Any:
    """``fn`` of ``arguments``, or if there are ``tasks``, of the share of each: mapped if it may be, or looped."""
    if not tasks:
        return fn(*arguments)
    if not vectorize:
        return trees.stack([fn(*share) for share in trees.unstack(arguments, tasks)])
    shape: list[Any] = []

    def flat(*leaves: Tensor) -> tuple[Tensor, ...]:
        out = fn(*trees.refill(arguments, leaves))
        shape.append(out)
        return tuple(trees.tensors(out))

    leaves = torch.func.vmap(flat, randomness="different")(*trees.tensors(arguments))
    return trees.refill(shape[0], leaves)
