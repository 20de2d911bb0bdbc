"""One step of a level: normalize the signal, ask the strategy, bound the step; mapped over tasks if there are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ..contracts import trees
from ..contracts.strategy import Params, State, Strategy, Trial
from ..core.counts import closed, has_counts, opened
from ..core.level import Level
from ..core.normalize import NORMALIZERS
from ..core.state import Signal
from .model import Patched


@dataclass
class Step:
    """A strategy's answer: deltas, its next states, and the signal as it read it."""

    delta: Params
    strategy: State
    normal: State
    signal: Params


class Caller:
    """A strategy's module, patched once and called with any values of its parameters."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.patched = Patched(strategy)
        self.mapped = strategy.vectorize

    def module(self, values: Params) -> Any:
        """The strategy with its parameters at ``values``."""
        return self.patched.load(values)

    def init(self, point: Params, tasks: int) -> State:
        """The strategy's state before the first step at ``point``, over tasks if there are many."""
        if tasks == 1:
            return self.strategy.init([p.detach() for p in point])
        return trees.stack([self.strategy.init([p[n].detach() for p in point]) for n in range(tasks)])

    def eval_point(self, values: Params, point: Params, state: State, tasks: int) -> Params:
        """Where the strategy would have what it moves used, of each task."""
        module = self.module(values)

        def one(point: Params, state: State) -> Params:
            return list(module.eval_point(point, opened(state, None)))

        with torch.no_grad():
            return over_tasks(one, (point, state), tasks, False)  # type: ignore[no-any-return]

    def step(
        self, values: Params, level: Level, point: Params, signal: Signal, strategy: State, normal: State,
        rng: Generator, tasks: int,
    ) -> Step:  # fmt: skip
        """A first-order strategy's step at ``point`` on ``signal``."""
        module = self.module(values)
        normalize = NORMALIZERS[level.normalize or "none"]
        by_turns = tasks > 1 and has_counts((strategy, normal))

        def one(point: Params, loss: Tensor, grads: Params, states: tuple[State, State]) -> tuple[Any, ...]:
            strategy, normal = opened(states, point[0].dtype if self.mapped else None) if by_turns else states
            read, after = normalize(grads, normal, signal.bound)
            delta, state = module(point, [Trial(point, loss, read)], strategy, rng)
            if level.trust is not None:
                delta = _bounded(delta, point, level.trust)
            return (delta, *(closed(states, (state, after)) if by_turns else (state, after)), read)

        arguments = (point, signal.loss, signal.grads, (strategy, normal))
        try:
            return Step(*over_tasks(one, arguments, tasks, self.mapped))
        except (RuntimeError, TypeError):
            # A rule may ask its count of steps for more than arithmetic, which needs a plain number.
            if not (by_turns and self.mapped):
                raise
            self.mapped = False
            return Step(*over_tasks(one, arguments, tasks, False))

    def search(
        self, values: Params, point: Params, loss: Tensor, score: Callable[[Params], Tensor], strategy: State,
        rng: Generator, tasks: int,
    ) -> tuple[Params, State]:  # fmt: skip
        """A zero-order strategy's step at ``point``, which has ``loss``, after scoring the points it proposes."""
        module = self.module(values)

        def propose(point: Params, strategy: State) -> list[Params]:
            return list(module.propose(point, opened(strategy, None), rng))

        def decide(point: Params, strategy: State, points: list[Params], losses: list[Tensor]) -> tuple[Params, State]:
            trials = [Trial(p, x) for p, x in zip(points, losses, strict=True)]
            delta, after = module(point, trials, opened(strategy, None), rng)
            return delta, closed(strategy, after)

        found: list[Params] = over_tasks(propose, (point, strategy), tasks, False)
        same = [all(torch.equal(a, b) for a, b in zip(candidate, point, strict=True)) for candidate in found]
        losses = [loss if known else score(candidate) for candidate, known in zip(found, same, strict=True)]
        delta, after = over_tasks(decide, (point, strategy, found, losses), tasks, False)
        return delta, after


def _bounded(delta: Params, point: Params, trust: float) -> Params:
    """``delta`` with at most ``trust`` times the norm of ``point``, all tensors together.

    A hyperparameter's coordinate counts as 1: it is a logarithm or a logit, whose size says nothing.
    """
    tiny = torch.finfo(delta[0].dtype).tiny
    length = torch.stack([(d * d).sum() for d in delta]).sum().clamp_min(tiny).sqrt()
    sizes = [(p * p).sum() if p.ndim else torch.ones_like(p) for p in point]
    limit = trust * torch.stack(sizes).sum().clamp_min(tiny).sqrt()
    factor = (limit / length).clamp_max(1.0)
    return [d * factor for d in delta]


def over_tasks(fn: Callable[..., Any], arguments: Sequence[Any], tasks: int, vectorize: bool) -> Any:
    """``fn`` of ``arguments``, or of each task's share of them: mapped if it may be, else looped."""
    if tasks == 1:
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
