"""Estimators of hypergradients on problems whose answers are known.

    python benchmarks/estimators.py influence|horizon|penalties

``influence``: influence balancing (Tallec & Ollivier 2017, 1702.05043; Vicol et al. 2021, 2112.13835), n = 23, p = 10.
``horizon``: a rate and a momentum tuned by tangents over long runs, and the memory of the process.
``penalties``: one penalty for each feature of a ridge and a logistic regression, against the closed form.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recopt.contracts.settings import real
from recopt.contracts.strategy import Params, State, Strategy
from recopt.contracts.task import Batch, Split, Task
from recopt.engine.engine import Engine
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.levels.state import Signal
from recopt.stacks.plugins import load_strategy

POINTS, UP, FEATURES, EXAMPLES = 23, 10, 12, 40
PLAIN = {"normalize": "none", "guard": False}


class Balance(Strategy):
    """s ← As + (θ … θ, −θ … −θ): at rest the first entry is −6θ, though θ pushes it up at first."""

    theta = real(0.5)

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        (s,) = point
        sign = torch.where(torch.arange(POINTS) < UP, 1.0, -1.0).to(s)
        return [0.5 * (torch.cat([s[1:], s.new_zeros(1)]) - s) + self.theta * sign], state


class First(Task):
    """½ (s₁ − 1)² of the present state."""

    def model(self) -> nn.Module:
        return nn.ParameterList([torch.ones(POINTS)])

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.ones(1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (0.5 * (next(model.parameters())[0] - batch) ** 2).sum()


class Ridge(Task):
    """Regression with a penalty for each feature."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sets = [self._drawn(torch.Generator().manual_seed(n)) for n in range(2)]

    def _drawn(self, dice: torch.Generator) -> Batch:
        x = torch.randn(EXAMPLES, FEATURES, generator=dice, dtype=torch.float64)
        return x, x[:, 0] - x[:, 1] + torch.randn(EXAMPLES, generator=dice, dtype=torch.float64)

    def model(self) -> nn.Module:
        made = nn.Linear(FEATURES, 1, bias=False)
        nn.init.zeros_(made.weight)
        return made

    def batch(self, index: int, split: Split = "train") -> Batch:
        return self.sets[split != "train"]

    def fit(self, weight: Tensor, batch: Batch) -> Tensor:
        """The loss of a weight."""
        return ((batch[0] @ weight - batch[1]) ** 2).mean()

    def penalized(self, weight: Tensor, penalty: Tensor) -> Tensor:
        """The training loss at logarithms of penalties."""
        return self.fit(weight, self.batch(0)) + (penalty.exp() * weight**2).sum()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.fit(next(model.parameters())[0], batch)

    def loss_parameters(self) -> nn.Module:
        return nn.ParameterDict({"log_penalty": torch.full((FEATURES,), -1.0)})

    def training_loss(self, model: nn.Module, batch: Batch, parameters: nn.Module) -> Tensor:
        return self.penalized(next(model.parameters())[0], next(parameters.parameters()))


class Logistic(Ridge):
    """The same with the signs of the answers."""

    def fit(self, weight: Tensor, batch: Batch) -> Tensor:
        return softplus(-batch[1].sign() * (batch[0] @ weight)).mean()


def engine(task: Task, inner: Strategy, outer: Strategy, moves: str, told: Mapping[str, Any]) -> Engine:
    """A run of two levels in float64; the upper one is told ``told``."""
    levels = [Level(moves="task", by="inner", guard=False), Level(moves=moves, by="outer", **told)]
    return Engine(task, Graph(levels, {"inner": inner, "outer": outer}), dtype=torch.float64)


def strategy(name: str, **settings: float) -> Strategy:
    """A shipped strategy."""
    return load_strategy(name)(**settings)


def influence() -> None:
    """The loss at rest, ½ (−6θ − 1)², after 3,000 steps of SGD on θ; it begins at 8.0."""
    for gradient in ("online", "forward"):
        made = engine(First(), Balance(), strategy("sgd", lr=1e-4), "inner", {"gradient": gradient, **PLAIN})
        made.run(3000)
        theta = float(made.state.slots["inner"].params[0].detach())
        print(f"{gradient:8} theta {theta:.12f}, loss {0.5 * (-6 * theta - 1) ** 2:.3g}")


def horizon() -> None:
    """Rate and momentum after runs of 500 and of 5,000 steps in windows of 50, and the most memory so far."""
    for steps in (500, 5000):
        told = {"gradient": "forward", "every": 50, "only": ("lr", "momentum")}
        made = engine(Ridge(), strategy("sgd", lr=1e-3, momentum=0.5), strategy("adam", lr=0.02), "inner", told)
        begin = time.perf_counter()
        made.run(steps)
        rate, momentum = (p.detach() for p in made.state.slots["inner"].params)
        took = 1000 * (time.perf_counter() - begin) / steps
        print(f"{steps:5} steps: lr {rate.exp():.2e}, momentum {momentum.sigmoid():.3f}, {took:.2f} ms a step, "
              f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")  # fmt: skip


def penalties(length: int = 2000) -> None:
    """The largest error of a hypergradient after ``length`` steps from zero, relative to its largest entry."""
    for task, rate in ((Ridge(), 0.15), (Logistic(), 0.4)):
        exact = closed(task)
        for gradient in ("forward", "unroll"):
            told = {"gradient": gradient, "every": length, "objective": "last", **PLAIN}
            made = engine(task, strategy("sgd", lr=rate), strategy("sgd", lr=1e-9), "loss", told)
            begin, found = time.perf_counter(), first_signal(made, length)
            report(task, gradient, exact, found, time.perf_counter() - begin)
        begin, found = time.perf_counter(), by_hand(task, rate, length)
        report(task, "torch", exact, found, time.perf_counter() - begin)


def report(task: Task, how: str, exact: Tensor, found: Tensor, seconds: float) -> None:
    """Print one figure."""
    print(
        f"{type(task).__name__:8} {how:8} {float((found - exact).abs().max() / exact.abs().max()):.1e}, {seconds:.2f} s"
    )


def first_signal(made: Engine, length: int) -> Tensor:
    """The first hypergradient of the upper level."""
    found: list[Tensor] = []
    deliver = made.tower.up._deliver

    def heard(state: Any, number: int, signal: Signal | None) -> None:
        if signal is not None and signal.grads is not None:
            found.append(signal.grads[0].detach())
        deliver(state, number, signal)

    made.tower.up._deliver = heard  # type: ignore[method-assign]
    made.run(length + 1)
    return found[0]


def by_hand(task: Ridge, rate: float, length: int) -> Tensor:
    """The same by backpropagation through gradient descent in plain torch."""
    penalty = torch.full((FEATURES,), -1.0, dtype=torch.float64, requires_grad=True)
    weight = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    for _ in range(length):
        (grad,) = torch.autograd.grad(task.penalized(weight, penalty), weight, create_graph=True)
        weight = weight - rate * grad
    return torch.autograd.grad(task.fit(weight, task.batch(0, "valid")), penalty)[0]


def closed(task: Ridge) -> Tensor:
    """The hypergradient at the optimum, −∂²f/∂λ∂w H⁻¹ ∇v, by the implicit function theorem."""
    penalty = torch.full((FEATURES,), -1.0, dtype=torch.float64)
    weight = torch.zeros(FEATURES, dtype=torch.float64)
    for _ in range(50):  # Newton's method
        grad = torch.func.grad(task.penalized)(weight, penalty)
        weight = weight - torch.linalg.solve(torch.func.hessian(task.penalized)(weight, penalty), grad)
    outer = torch.func.grad(task.fit)(weight, task.batch(0, "valid"))
    solved = torch.linalg.solve(torch.func.hessian(task.penalized)(weight, penalty), outer)
    return -2 * penalty.exp() * weight * solved


if __name__ == "__main__":
    commands = {"influence": influence, "horizon": horizon, "penalties": penalties}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=commands)
    torch.set_num_threads(1)
    commands[parser.parse_args().what]()
