"""A population of learned rules as one strategy, over a task that holds a model for each: for ``bootstrap.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from recopt import Params, State, Strategy, Trial, option, strategy
from recopt.contracts.task import Batch
from recopt.tasks.wrappers import Wrapper, members

RULE, STEPS = "mlp-rule(hidden=8, width=8, nominal=0)", 20


class Copies(nn.Module):
    """``count`` models with one start: each parameter has a first dimension for them."""

    def __init__(self, inner: nn.Module, count: int) -> None:
        super().__init__()
        self.inner = (inner,)  # no submodule: its own parameters are of no use
        for name, p in inner.named_parameters():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(p.detach().expand(count, *p.shape).clone()))

    def each(self, loss: Callable[[Any], Tensor]) -> Tensor:
        """The loss of each model [count], ``loss`` being that of one."""
        inner = self.inner[0]
        stacked = {name: getattr(self, name.replace(".", "_")) for name, _ in inner.named_parameters()}
        return vmap(lambda own: loss(lambda x: functional_call(inner, own, (x,))))(stacked)


class SideBySide(Wrapper):
    """The sum of the losses of ``count`` models of one task, from the same start on the same batches."""

    of = option("digits", "the task")
    count = option(10, "models", least=1)

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        super().__init__(seed=seed, **options)
        self.wrap(members(self.of, "of")[0].sample(seed))

    def sample(self, seed: int) -> Self:
        return super().sample(seed).wrap(self.inner.sample(seed))

    def model(self) -> nn.Module:
        return Copies(self.inner.model(), self.count)

    def each(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each model [count]."""
        assert isinstance(model, Copies)
        return model.each(lambda one: self.inner.loss(one, batch))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.each(model, batch).sum()

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {}


class Members(Strategy):
    """Rules of one form beside each other, each with weights of its own over tensors of its own."""

    rule = option(RULE, "the form of each")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.form = (strategy(self.rule),)
        self.names = [name for name, _ in self.form[0].named_parameters()]

    def init(self, point: Params) -> State:
        """The first state of each, stacked."""
        first: State = vmap(self.form[0].init)(list(point))
        return first

    def step(self, weights: Params, point: Params, grads: Params, state: State, rng: Generator) -> tuple[Params, State]:
        """The delta of each at its own weights, and the state after it."""

        def one(own: Params, point: Params, grads: Params, state: State) -> Any:
            given = ([*point], [Trial(point, None, grads)], state, rng)
            return functional_call(self.form[0], dict(zip(self.names, own, strict=True)), given)

        deltas, after = vmap(one)(list(weights), list(point), list(grads), state)
        return deltas, after


class Population(Members):
    """The members; their weights are what a level above moves."""

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {
        "every": STEPS, "episode": STEPS, "gradient": "unroll", "second_order": False, "normalize": "none",
    }  # fmt: skip

    def __init__(self, weights: Params, **settings: Any) -> None:
        super().__init__(**settings)
        self.weights = nn.ParameterList(w.detach().clone() for w in weights)

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        assert trials[0].grads is not None
        return self.step(list(self.weights), point, trials[0].grads, state, rng)


class Teachers(Members):
    """Moves the weights of each member by the rule of member ``of[n]`` as it was at the first step.

    It is runs of the stack of a member and its teacher side by side, to rounding, but for ``trust``: that of a
    level counts the logarithm of ``scale`` as 1 in the norm of what is moved, and this one as it is.
    """

    of = option((), "who moves each")
    trust = option(0.01, "the largest step, relative to the weights of the member that it moves")

    def init(self, point: Params) -> State:
        return {"weights": [p.detach()[list(self.of)].clone() for p in point], "own": super().init(point)}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        assert trials[0].grads is not None
        deltas, own = self.step(state["weights"], point, trials[0].grads, state["own"], rng)
        deltas = [d.nan_to_num(0.0, 0.0, 0.0) for d in deltas]
        factor = (self.trust * norms(point) / norms(deltas).clamp_min(1e-20)).clamp_max(1.0)
        return [d * over(factor, d) for d in deltas], {"weights": state["weights"], "own": own}


def norms(tensors: Params) -> Tensor:
    """The norm of each member [count], over all its tensors."""
    return torch.stack([t.flatten(1).square().sum(1) if t.ndim > 1 else t.square() for t in tensors]).sum(0).sqrt()


def over(each: Tensor, like: Tensor) -> Tensor:
    """A number for each member in the shape that multiplies ``like``."""
    return each.reshape(-1, *[1] * (like.ndim - 1))
