"""The coordinatewise LSTM update rule of Andrychowicz et al. 2016 (1606.04474)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import flatten, log_and_sign, lstm_layers, unflatten, uniform_weights


class Lstm(Strategy):
    """Every coordinate is moved by a small LSTM with a state of its own; all coordinates share its weights.

    The input of a coordinate is its gradient g as ``(max(log|g| / p, -1), clip(e^p g, -1, 1))`` with p = 10 (their
    appendix A), its delta the linear read-out of the last layer times ``scale`` (theirs: 0.1). Weights are drawn
    as those of ``torch.nn.LSTM`` are, by torch's global generator.
    """

    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 100, "gradient": "unroll", "second_order": False}

    hidden = option(20, "units per layer", least=1)
    layers = option(2, "LSTM layers", least=1)
    preprocess = option(True, "log-sign inputs; without it the gradient itself")
    scale = positive(0.1, "what the read-out is multiplied by")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        bound = self.hidden**-0.5
        widths = [2 if self.preprocess else 1, *[self.hidden] * (self.layers - 1)]
        self.weights = nn.ParameterList(uniform_weights(bound, 4 * self.hidden, n + self.hidden) for n in widths)
        self.biases = nn.ParameterList(uniform_weights(bound, 4 * self.hidden) for _ in widths)
        self.read_out = uniform_weights(bound, 1, self.hidden)
        self.read_out_bias = nn.Parameter(torch.zeros(1))

    def init(self, point: Params) -> State:
        """Zero h and c, [hidden, n] for each layer, n the number of coordinates."""
        columns = sum(p.numel() for p in point)
        zeros = point[0].new_zeros(self.hidden, columns)
        return {"h": [zeros] * self.layers, "c": [zeros] * self.layers}

    def inputs(self, flat: Tensor) -> Tensor:
        """The features [features, n] of the gradient ``flat`` [n]."""
        return log_and_sign(flat) if self.preprocess else flat[None]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        grads = trials[0].grads
        assert grads is not None
        x, after = lstm_layers(self.inputs(flatten(grads)), state, self.weights, self.biases)
        out = (self.scale * self.read_out) @ x + self.scale * self.read_out_bias
        return unflatten(out[0], point), after
