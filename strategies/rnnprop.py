"""RNNprop, the scale-free recurrent update rule of Lv, Jiang and Li 2017 (1703.03633)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, nn

from recopt import Params, State, Strategy, Trial, option, positive, unit
from recopt.toolkit.blocks import flatten, lstm_layers, tanh, unflatten, uniform_weights


class Rnnprop(Strategy):
    """A coordinatewise LSTM between RMSprop's and Adam's inputs and a bounded output.

    A coordinate's inputs are m/√v and g/√v (both means bias-corrected, β1 = β2 = 0.95), which do not change when
    the loss is multiplied by a number; they pass a linear layer with ELU, then the LSTM; the delta is
    ``scale`` · tanh(read-out), so that no coordinate moves further than ``scale`` in one step.

    Train it with the coordinates of the optimizee rescaled at random, as its authors do.
    """

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(20, "units per layer", least=1)
    layers = option(2, "LSTM layers", least=1)
    scale = positive(0.1, "largest move of a coordinate in one step")
    beta1 = unit(0.95, "decay of the mean of g")
    beta2 = unit(0.95, "decay of the mean of g²")
    eps = positive(1e-8, "added to √v")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        bound = self.hidden**-0.5
        self.enter = uniform_weights(2**-0.5, self.hidden, 2)
        self.enter_bias = nn.Parameter(torch.zeros(self.hidden))
        layers = range(self.layers)
        self.weights = nn.ParameterList(uniform_weights(bound, 4 * self.hidden, 2 * self.hidden) for _ in layers)
        self.biases = nn.ParameterList(uniform_weights(bound, 4 * self.hidden) for _ in layers)
        self.read_out = uniform_weights(bound, 1, self.hidden)
        self.read_out_bias = nn.Parameter(torch.zeros(1))

    def init(self, point: Params) -> State:
        """Zero means [n], zero h and c [hidden, n] for each layer, and the powers of the betas."""
        flat = torch.zeros_like(flatten(point))
        zeros = flat.new_zeros(self.hidden, flat.numel())
        one = flat.new_ones(())
        layers = {"h": [zeros] * self.layers, "c": [zeros] * self.layers}
        return {"m": flat, "v": flat, "rest1": one, "rest2": one, **layers}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        g = flatten(grads)
        m = self.beta1 * state["m"] + (1 - self.beta1) * g
        v = self.beta2 * state["v"] + (1 - self.beta2) * g.square()
        rest1, rest2 = state["rest1"] * self.beta1, state["rest2"] * self.beta2
        # Clamped below the root: its derivative at 0 is infinite, and a coordinate that never moved has v = 0.
        root = (v / (1 - rest2)).clamp(min=1e-30).sqrt() + self.eps
        x = torch.stack([m / (1 - rest1) / root, g / root])
        x = nn.functional.elu(self.enter @ x + self.enter_bias[:, None])
        x, after = lstm_layers(x, state, self.weights, self.biases)
        out = self.scale * tanh((self.read_out @ x)[0] + self.read_out_bias)
        return unflatten(out, point), {"m": m, "v": v, "rest1": rest1, "rest2": rest2, **after}
