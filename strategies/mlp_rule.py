"""A small network per coordinate over momenta at several time scales (Metz et al. 2020, 2022)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import flatten, log_ratio, rms, unflatten

MOMENTA = (0.5, 0.9, 0.99)
SECOND = (0.9, 0.999)
TIMES = (1.0, 3.0, 10.0, 30.0, 100.0)


class MlpRule(Strategy):
    """A small network moves every coordinate; the move of a tensor is scaled to a learned root mean square.

    A coordinate's inputs are g and the means of g at three time scales, each over √v at two time scales and
    over its own root mean square in the tensor, and the coordinate's value likewise; its tensor's are the
    ratios of those root mean squares and the step number. The outputs are a direction d and the logarithm r
    of a magnitude. The direction d · e^(r/2) is then brought to root mean square 1 in its tensor (as in Celo2), and
    the tensor moves by ``scale`` times a factor that a second, tensor-wise network finds from the same ratios.

    No input and no output changes when the loss is multiplied by a number. The network is a function of the
    gradients alone, without hidden state: no graph runs from one step to the next.

    ``inputs``, ``normalized`` and ``nominal`` take a piece of this away, to see what it is worth: the inputs may be
    the gradient and its means as log and sign (Andrychowicz et al. 2016, appendix A, p = 10) or as they
    are; the direction may be left as long as it comes out; and Adam's direction may be left out of it.
    """

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(16, "units per layer of the coordinate network", least=1)
    width = option(16, "units of the tensor network", least=1)
    scale = positive(0.01, "root mean square of a tensor's move before the learned factor")
    inputs = option("rms", "how g and its means enter the coordinate network", choices=("rms", "log_sign", "none"))
    normalized = option(True, "the direction is brought to root mean square 1 in its tensor")
    nominal = option(0.1, "how much of Adam's direction is added to the network's")

    p: ClassVar[float] = 10.0
    ratios: ClassVar[int] = 5 + len(TIMES)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        rows = {"rms": 4 * 3, "log_sign": 4 * 2, "none": 4}[self.inputs]
        self.enter = nn.Linear(rows + 1, self.hidden)
        self.known = nn.Linear(self.ratios, self.hidden, bias=False)
        self.middle = nn.Linear(self.hidden, self.hidden)
        self.leave = nn.Linear(self.hidden, 2)
        self.inner = nn.Linear(self.ratios, self.width)
        self.outer = nn.Linear(self.width, 1)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)
            self.leave.bias.zero_()
            self.outer.weight.zero_()
            self.outer.bias.zero_()

    def init(self, point: Params) -> State:
        """Zero means of g [3, n] and of g² [2, n], n the number of coordinates, and the step number."""
        flat = flatten(point)
        return {
            "m": flat.new_zeros(len(MOMENTA), flat.numel()),
            "v": flat.new_zeros(len(SECOND), flat.numel()),
            "step": flat.new_zeros(()),
        }

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        g, step = flatten(grads), state["step"] + 1
        first, second = g.new_tensor(MOMENTA)[:, None], g.new_tensor(SECOND)[:, None]
        m = first * state["m"] + (1 - first) * g
        v = second * state["v"] + (1 - second) * g.square()
        means = torch.cat([g[None], m / (1 - first**step)])
        roots = (v / (1 - second**step)).clamp(min=1e-30).sqrt()
        scaled = torch.cat([means / roots[:1], means / roots[1:]])
        times = torch.tanh(step / g.new_tensor(TIMES))
        deltas = []
        cuts = [p.numel() for p in point]
        for p, mean, root, row in zip(
            point, means.split(cuts, 1), roots.split(cuts, 1), scaled.split(cuts, 1), strict=True
        ):
            ratios = torch.cat([self._ratios(p, mean, root), times])
            delta = -self._direction(p, mean, row, ratios)
            factor = 3 * self.outer(torch.tanh(self.inner(ratios)))
            deltas.append(self.scale * factor.exp() * delta)
        return unflatten(torch.cat(deltas), point), {"m": m, "v": v, "step": step}

    def _ratios(self, p: Tensor, mean: Tensor, root: Tensor) -> Tensor:
        """Ratios of root mean squares within a tensor [5]: momenta to √v, the two v, the values to 1."""
        sizes = (mean.square().mean(1) + 1e-30).sqrt()
        spread = (root.square().mean(1) + 1e-30).sqrt()
        one = torch.ones_like(spread[:1])
        return torch.cat([log_ratio(sizes[1:], spread[:1]), log_ratio(spread[:1], spread[1:]), log_ratio(rms(p), one)])

    def _direction(self, p: Tensor, mean: Tensor, row: Tensor, ratios: Tensor) -> Tensor:
        """The direction [n] of a tensor, of root mean square 1, from its means [4, n] and their scaled rows [8, n]."""
        x = torch.cat([self._entering(mean, row), p.reshape(1, -1) / (rms(p) + 1e-3)])
        bias = (self.enter.bias + self.known(ratios))[:, None]
        x = nn.functional.silu(self.enter.weight @ x + bias)
        x = nn.functional.silu(self.middle.weight @ x + self.middle.bias[:, None])
        out = self.leave.weight @ x + self.leave.bias[:, None]
        # A tenth of Adam's direction is added, so that an untrained rule already goes downhill.
        d = (out[0] + self.nominal * row[5]) * (out[1] / 2).clamp(-5, 5).exp()
        return d / (rms(d) + 1e-12) if self.normalized else d

    def _entering(self, mean: Tensor, row: Tensor) -> Tensor:
        """The inputs [12, 8 or 4, n] of the coordinate network that are of the gradient."""
        if self.inputs == "none":
            return mean
        if self.inputs == "log_sign":
            log = mean.abs().clamp(min=math.exp(-self.p)).log() / self.p
            return torch.cat([log, (mean * math.exp(self.p)).clamp(-1, 1)])
        return torch.cat([row, mean / (mean.square().mean(1, keepdim=True) + 1e-30).sqrt()])
