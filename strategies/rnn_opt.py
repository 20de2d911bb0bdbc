"""A learned black-box optimizer after Chen et al. 2017 (1611.03824): a recurrent network reads values, names points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from recopt import Params, State, Strategy, Trial, option, positive
from recopt.toolkit.blocks import flatten, lstm_layers, tanh, unflatten, uniform_weights

GOLDEN = 0.6180339887498949


class RnnOpt(Strategy):
    """An LSTM over points and their losses, which reads no gradient: what it puts out is the next point.

    A coordinate of the point x_t, whose loss is y_t, has an LSTM of its own, and all share the weights:

        h_t = LSTM(h_{t−1}, [x_t, b_t, q_t, z_t, z*_t]),   x_{t+1} = tanh(w · h_t + w_q q_t + c),

    in units of ``spread`` from the first point. b_t is the best point so far; z_t and z*_t are y_t and the best loss
    less the mean of the losses so far, over their standard deviation, so that adding a number to the loss or
    multiplying it changes nothing (a loss that is not finite counts as that mean). q_t is a quasi-random number in
    [−1, 1], another for each coordinate and step (Kronecker's sequence), and w_q begins at 1: an untrained rule looks
    around, and a trained one knows when to stop.

    Theirs has one LSTM over the whole point, of a fixed dimension, reads x_t and y_t only, and is trained along
    gradients of the functions. This one moves points of any size, and a level above trains it from values (``es``).
    """

    order = 0
    learned: ClassVar[bool] = True
    above: ClassVar[Mapping[str, Any]] = {"every": 20, "episode": 20, "gradient": "es"}

    hidden = option(16, "units of the LSTM", least=1)
    spread = positive(5.0, "half width of the box around the first point")

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        bound = self.hidden**-0.5
        self.weights = nn.ParameterList([uniform_weights(bound, 4 * self.hidden, 5 + self.hidden)])
        self.biases = nn.ParameterList([uniform_weights(bound, 4 * self.hidden)])
        self.read_out = uniform_weights(0.1 * bound, 1, self.hidden)
        self.around = nn.Parameter(torch.ones(1))
        self.read_out_bias = nn.Parameter(torch.zeros(1))

    def init(self, point: Params) -> State:
        """Zero h and c [hidden, n]; the first and the best point [n]; the losses' number, mean, squares, and least."""
        flat = flatten(point).detach().to(self.read_out)
        zeros, zero = flat.new_zeros(self.hidden, flat.numel()), flat.new_zeros(())
        return {
            "h": [zeros], "c": [zeros], "first": flat, "best": flat,
            "count": zero, "mean": zero, "square": zero, "least": zero,
        }  # fmt: skip

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        loss = trials[0].loss
        assert loss is not None
        at = flatten(point).to(self.read_out)
        y = torch.where(loss.isfinite(), loss, state["mean"]).to(at)
        told = _told(y, at, state)
        spread = (told["square"] / told["count"] + torch.finfo(at.dtype).tiny).sqrt()
        q = _around(at, state["count"])
        ones = torch.ones_like(at)
        seen = torch.stack([
            (at - state["first"]) / self.spread, (told["best"] - state["first"]) / self.spread, q,
            (y - told["mean"]) / spread * ones, (told["least"] - told["mean"]) / spread * ones,
        ])  # fmt: skip
        h, after = lstm_layers(seen, state, self.weights, self.biases)
        named = tanh((self.read_out @ h)[0] + self.around * q + self.read_out_bias)
        moved = unflatten(state["first"] + self.spread * named - at, point)
        return [d.to(p) for d, p in zip(moved, point, strict=True)], {**after, **told, "first": state["first"]}


def _told(y: Tensor, at: Tensor, state: State) -> State:
    """The best point and what is known of losses, with the loss ``y`` of the point ``at``."""
    count = state["count"] + 1
    mean = state["mean"] + (y - state["mean"]) / count
    better = (y < state["least"]) | (count == 1)
    return {
        "count": count, "mean": mean, "square": state["square"] + (y - state["mean"]) * (y - mean),
        "best": torch.where(better, at, state["best"]), "least": torch.where(better, y, state["least"]),
    }  # fmt: skip


def _around(at: Tensor, count: Tensor) -> Tensor:
    """A number in [−1, 1] for each coordinate: the point ``count`` of a sequence that fills a cube evenly."""
    index = torch.arange(1, len(at) + 1, dtype=at.dtype, device=at.device)
    shares = (index * GOLDEN + index.sqrt()) % 1
    return 2 * (((count + 1) * shares) % 1) - 1
