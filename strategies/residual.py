"""A nominal step of Adam with a learned correction and a learned decay (Harrison, Metz, Sohl-Dickstein 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, nn

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.blocks import flatten, tanh, unflatten

TIMES = (1.0, 3.0, 10.0, 30.0, 100.0)


class Residual(Strategy):
    """Adam's step with a learned factor, and a learned step beside it, for each coordinate.

    ``delta = -lr · (a · e^(2 r) + scale · b) - decay · lr · x``, with a = m/√v Adam's step. r and b are
    bounded outputs of a small network per coordinate; it is zero before training, so that the rule starts as Adam
    with decoupled decay, and stays near a descent direction while it
    learns (Harrison et al. 2022, 2209.11208: the nominal term and the decay make the closed loop stable).
    The inputs are g and its means at three time scales over √v, and the step number: scale-free.
    """

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(16, "units per layer", least=1)
    lr = positive(0.01, "the nominal step")
    beta1 = unit(0.9, "decay of the mean of g")
    beta2 = unit(0.99, "decay of the mean of g²")
    scale = positive(1.0, "largest correction of a coordinate, in nominal steps")
    decay = positive(0.0, "decoupled weight decay, times lr", off=0)
    eps = positive(1e-8, "added to √v")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.enter = nn.Linear(7 + len(TIMES), self.hidden)
        self.middle = nn.Linear(self.hidden, self.hidden)
        self.leave = nn.Linear(self.hidden, 2)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def init(self, point: Params) -> State:
        """Zero means [n] of g (three) and g², n the number of coordinates, and the step number."""
        flat = torch.zeros_like(flatten(point))
        return {"m": flat, "fast": flat, "slow": flat, "v": flat, "step": flat.new_zeros(())}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        g, x, step = flatten(grads), flatten(point), state["step"] + 1
        m = self.beta1 * state["m"] + (1 - self.beta1) * g
        fast, slow = 0.5 * state["fast"] + 0.5 * g, 0.99 * state["slow"] + 0.01 * g
        v = self.beta2 * state["v"] + (1 - self.beta2) * g.square()
        # Clamped below the root: its derivative at 0 is infinite, and a coordinate that never moved has v = 0.
        root = (v / (1 - self.beta2**step)).clamp(min=1e-30).sqrt() + self.eps
        nominal = m / (1 - self.beta1**step) / root
        rows = [nominal, g / root, fast / (1 - 0.5**step) / root, slow / (1 - 0.99**step) / root, x.clamp(-3, 3)]
        size = (m.square().mean() + 1e-30).sqrt() * 10
        known = torch.cat([torch.stack(rows), tanh(m / size)[None], tanh(root / (root.mean() + 1e-30))[None]])
        times = torch.tanh(step / g.new_tensor(TIMES))
        bias = self.enter.weight[:, 7:] @ times + self.enter.bias
        h = nn.functional.silu(self.enter.weight[:, :7] @ known + bias[:, None])
        h = nn.functional.silu(self.middle.weight @ h + self.middle.bias[:, None])
        out = tanh(self.leave.weight @ h + self.leave.bias[:, None])
        delta = -self.lr * (nominal * (2 * out[0]).exp() + self.scale * out[1])
        if self.on("decay"):
            delta = delta - self.decay * self.lr * x
        return unflatten(delta, point), {"m": m, "fast": fast, "slow": slow, "v": v, "step": step}
