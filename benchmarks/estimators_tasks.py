"""The problems of estimators.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from recopt.contracts.settings import positive, real
from recopt.contracts.strategy import Params, State, Strategy
from recopt.contracts.task import Batch, Split, Task

POINTS, UP, FEATURES, EXAMPLES, LENGTH = 23, 10, 12, 40, 100


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


class Rough(Task):
    """√(x² + 5) − √5 + sin²(y) exp(−5x²) + ¼ |y − 100| from (1, 1)."""

    def model(self) -> nn.Module:
        return nn.ParameterList([torch.ones(2)])

    def batch(self, index: int, split: Split = "train") -> Batch:
        return torch.zeros(1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return rough(*next(model.parameters()))


class Ramp(Strategy):
    """SGD whose rate goes from ``first`` to ``last`` over LENGTH steps."""

    first = positive(0.01)
    last = positive(0.01)

    def init(self, point: Params) -> State:
        return {"t": 0}

    def forward(self, point: Params, trials: Any, state: State, rng: Any) -> tuple[Params, State]:
        share = state["t"] / LENGTH
        rate = self.first * (1 - share) + self.last * share
        return [-rate * g for g in trials[0].grads], {"t": state["t"] + 1}


def rough(x: Tensor, y: Tensor) -> Tensor:
    """The surface."""
    return (x**2 + 5).sqrt() - 5**0.5 + y.sin() ** 2 * (-5 * x**2).exp() + (y - 100).abs() / 4


def total(first: Tensor, last: Tensor) -> Tensor:
    """The sum of the losses after each of LENGTH steps, at logarithms of the rates at both ends."""
    x, y, found = torch.ones_like(first), torch.ones_like(first), torch.zeros_like(first)
    for t in range(LENGTH):
        rate, bump = first.exp() * (1 - t / LENGTH) + last.exp() * t / LENGTH, (-5 * x**2).exp()
        along = x / (x**2 + 5).sqrt() - 10 * x * y.sin() ** 2 * bump
        across = (2 * y).sin() * bump + (y - 100).sign() / 4
        x, y = x - rate * along, y - rate * across
        found += rough(x, y)
    return found


class Curve(Ridge):
    """A net of 64 hidden units on 64 points of a curve."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def batch(self, index: int, split: Split = "train") -> Batch:
        dice = torch.Generator().manual_seed(2 * index + (split != "train"))
        x = torch.randn(64, FEATURES, generator=dice, dtype=torch.float64)
        return x, (3 * x[:, :1]).sin()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def loss_parameters(self) -> None:
        return None
