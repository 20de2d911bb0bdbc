"""The hierarchical recurrent rule of Wichrowska et al. 2017 (1703.04813)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.blocks import flatten, rms, tanh, unflatten, uniform_weights

FLOOR = 1e-30
"""Added to mean squares before their root and logarithm."""


class Hierarchical(Strategy):
    """Small GRUs on three floors: one a coordinate, one a tensor, one for the whole model.

    A coordinate's GRU reads its momenta (mean of g over root of mean of g²) at ``scales`` time scales, the logarithms
    of those mean squares relative to their mean over the scales, and its rate relative to all rates. Its state gives
    a direction, the change of its log rate, and the decays of the next means, σ(β)^(1/2^s) at scale s.
    A tensor's GRU reads the mean of its coordinates' states and answers with a bias to their GRUs; the model's reads
    the mean of the tensors' and answers with a bias to both. The hidden state of a coordinate can so be small.

    A tensor's direction is brought to root mean square 1 and each coordinate moves by its rate along it. No input
    and no output changes when the loss is multiplied by a number.

    Two things differ from the paper: gradients are taken at the point itself (no attended location), and ``nominal``
    of the slowest momentum is added to the direction, so that an untrained rule already goes downhill.
    """

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(10, "units of a coordinate's GRU", least=1)
    width = option(20, "units of a tensor's GRU and of the model's", least=1)
    scales = option(4, "time scales of the means of g and g²", least=1)
    nominal = option(0.1, "how much of the slowest momentum is added to the direction")
    rate = positive(0.01, "root mean square of a tensor's first move")
    inertia = unit(0.9, "decay of a coordinate's mean log rate")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        inputs, hidden, width = 2 * self.scales + 1, self.hidden, self.width
        self.coordinate = _gru(inputs, hidden)
        self.tensor = _gru(hidden, width)
        self.model = _gru(width, width)
        self.tensor_to_coordinate = uniform_weights(width**-0.5, 3 * hidden, width)
        self.model_to_coordinate = uniform_weights(width**-0.5, 3 * hidden, width)
        self.model_to_tensor = uniform_weights(width**-0.5, 3 * width, width)
        self.read_out = uniform_weights(0.1 * hidden**-0.5, 4, hidden)
        # Decays start at σ(2.2) = 0.9 for the fastest scale, and its roots for the slower ones.
        self.read_out_bias = nn.Parameter(torch.tensor([0.0, 0.0, 2.2, 2.2]))

    def init(self, point: Params) -> State:
        """Means of g, of g² and their weights [scales, n], log rates [n], raw decays [2, n], and the GRUs' states."""
        flat = torch.zeros_like(flatten(point))
        zeros, count = flat.new_zeros(self.scales, flat.numel()), len(point)
        return {
            "g": zeros, "square": zeros, "weights": flat.new_zeros(2, self.scales, flat.numel()),
            "log_rate": flat, "decays": flat.new_full((2, flat.numel()), 2.2),
            "coordinate": flat.new_zeros(self.hidden, flat.numel()),
            "tensor": flat.new_zeros(self.width, count), "model": flat.new_zeros(self.width, 1),
        }  # fmt: skip

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        sizes = [p.numel() for p in point]
        means, momenta, spread = self._means(flatten(grads), state)
        relative = state["log_rate"] - state["log_rate"].mean()
        bias = _spread(self.tensor_to_coordinate @ state["tensor"], sizes) + self.model_to_coordinate @ state["model"]
        h = _step(self.coordinate, torch.cat([momenta, spread, relative[None]]), state["coordinate"], bias)
        by_tensor = torch.stack([part.sum(1) / max(1, part.shape[1]) for part in h.split(sizes, 1)], 1)
        tensor = _step(self.tensor, by_tensor, state["tensor"], self.model_to_tensor @ state["model"])
        model = _step(self.model, tensor.mean(1, keepdim=True), state["model"], 0.0)
        out = self.read_out @ h + self.read_out_bias[:, None]
        log_rate = state["log_rate"] + tanh(out[1])
        direction = out[0] - self.nominal * momenta[-1]
        unit_long = torch.cat([d / (rms(d) + 1e-12) for d in direction.split(sizes)])
        after = means | {
            "log_rate": self.inertia * state["log_rate"] + (1 - self.inertia) * log_rate,
            "decays": out[2:], "coordinate": h, "tensor": tensor, "model": model,
        }  # fmt: skip
        return unflatten(self.rate * log_rate.exp() * unit_long, point), after

    def _means(self, g: Tensor, state: State) -> tuple[State, Tensor, Tensor]:
        """The next means; momenta [scales, n]; logarithms of mean squares relative to their mean [scales, n]."""
        powers = torch.tensor([0.5**s for s in range(self.scales)]).to(g)
        decays = torch.sigmoid(state["decays"])[:, None] ** powers[:, None]
        weights = decays * state["weights"] + (1 - decays)
        mean = decays[0] * state["g"] + (1 - decays[0]) * g
        square = decays[1] * state["square"] + (1 - decays[1]) * g.square()
        true = square / weights[1] + FLOOR
        logs = true.log()
        momenta = mean / weights[0] / true.sqrt()
        return {"g": mean, "square": square, "weights": weights}, momenta, logs - logs.mean(0)


def _gru(inputs: int, hidden: int) -> nn.ParameterList:
    """Weights of the inputs [3·hidden, inputs] and the state [3·hidden, hidden], and a bias [3·hidden, 1]."""
    bound = hidden**-0.5
    return nn.ParameterList(
        [uniform_weights(bound, 3 * hidden, inputs), uniform_weights(bound, 3 * hidden, hidden),
         uniform_weights(bound, 3 * hidden, 1)]
    )  # fmt: skip


def _step(weights: nn.ParameterList, x: Tensor, h: Tensor, bias: Tensor | float) -> Tensor:
    """A GRU's next state [hidden, n] from inputs [inputs, n]; ``bias`` is added to the inputs' part."""
    of_inputs = (weights[0] @ x + weights[2] + bias).chunk(3)
    of_state = (weights[1] @ h).chunk(3)
    reset, update = (torch.sigmoid(a + b) for a, b in zip(of_inputs[:2], of_state[:2], strict=True))
    return update * h + (1 - update) * tanh(of_inputs[2] + reset * of_state[2])


def _spread(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Columns [k, tensors] repeated for the coordinates of each tensor: [k, n]."""
    return torch.cat([x[:, i : i + 1].expand(-1, n) for i, n in enumerate(sizes)], 1)
