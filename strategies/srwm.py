"""The self-referential weight matrix of Irie, Schlag, Csordás and Schmidhuber 2022 (2202.05780) as an update rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import flatten, log_and_sign, unflatten, uniform_weights


class Srwm(Strategy):
    """Every coordinate is moved by a weight matrix W of its own, which also rewrites itself at every step.

    With φ the softmax, x a coordinate's embedded input and σ the logistic function (their equations 5 to 8),

        y, k, q, β = W φ(x)
        W ← W + σ(β) (W φ(q) − W φ(k)) ⊗ φ(k)

    so W chooses what it reads, what it writes in its place, and how fast. All coordinates begin with one W, which a
    level above moves with the embedding and the read-out. The input is the gradient g as in ``lstm``,
    ``(max(log|g| / p, -1), clip(e^p g, -1, 1))`` with p = 10, the delta the linear read-out of y times ``scale``.

    The state has (3 units + 1) units numbers for each coordinate.
    """

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    units = option(8, "width of x, y, k and q", least=1)
    scale = positive(0.1, "what the read-out is multiplied by")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        bound = self.units**-0.5
        self.enter = uniform_weights(2**-0.5, self.units, 2)
        self.enter_bias = nn.Parameter(torch.zeros(self.units))
        self.matrix = uniform_weights(bound, 3 * self.units + 1, self.units)
        self.read_out = uniform_weights(bound, self.units)
        self.read_out_bias = nn.Parameter(torch.zeros(()))

    def init(self, point: Params) -> State:
        """No change of W yet, [3 units + 1, units, n], n the number of coordinates."""
        columns = sum(p.numel() for p in point)
        return {"change": torch.zeros_like(flatten(point)[:1]).expand(*self.matrix.shape, columns).clone()}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        change: Tensor = state["change"]

        def answers(x: Tensor) -> Tensor:
            """W x, for columns x [units, n] of the coordinates."""
            return self.matrix @ x + (change * x).sum(1)

        x = self.enter @ log_and_sign(flatten(grads)) + self.enter_bias[:, None]
        y, k, q, beta = answers(x.softmax(0)).split([self.units] * 3 + [1])
        key = k.softmax(0)
        gap = answers(q.softmax(0)) - answers(key)
        delta = self.scale * (self.read_out @ y + self.read_out_bias)
        return unflatten(delta, point), {"change": change + (beta.sigmoid() * gap)[:, None] * key}
