"""The learned black-box optimizer: a plain LSTM on the same weights, the scale of losses, and training from values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn

import recopt
from recopt import Strategy, Trial
from recopt.stacks.plugins import load_strategy
from recopt.tasks.functions import Point
from recopt.testing import assert_conforms

RNG = Generator()
COUNT = 5


def made() -> Strategy:
    torch.manual_seed(3)
    return load_strategy("rnn-opt")().double()


def walked(rule: Strategy, steps: int, scale: float = 1.0, shift: float = 0.0, lost: int = -1) -> list[Tensor]:
    """The points of a run on a bowl whose least is at 1."""
    point, path = [torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)], list[Tensor]()
    state = rule.init(point)
    for step in range(steps):
        flat = torch.cat(point)
        loss = scale * (flat - 1).square().sum() + shift
        delta, state = rule(point, [Trial(point, loss if step != lost else loss * math.nan)], state, RNG)
        point = [p + d for p, d in zip(point, delta, strict=True)]
        path.append(torch.cat(point))
    return path


def test_it_conforms() -> None:
    assert_conforms(load_strategy("rnn-opt"))


def test_points_equal_those_of_a_plain_lstm() -> None:
    rule = made()
    plain = nn.LSTM(5, rule.hidden).double()
    with torch.no_grad():
        plain.weight_ih_l0.copy_(rule.weights[0][:, :5])
        plain.weight_hh_l0.copy_(rule.weights[0][:, 5:])
        plain.bias_ih_l0.copy_(rule.biases[0])
        plain.bias_hh_l0.zero_()
    at, hidden, losses, points = torch.zeros(COUNT, dtype=torch.float64), None, list[Tensor](), list[Tensor]()
    for step, found in enumerate(x.detach() for x in walked(rule, 8)):
        losses.append((at - 1).square().sum())
        points.append(at)
        best = min(range(len(losses)), key=lambda n: float(losses[n]))
        spread = torch.stack(losses).std(correction=0).clamp(min=torch.finfo(torch.float64).tiny ** 0.5)
        index = torch.arange(1, COUNT + 1, dtype=torch.float64)
        q = 2 * (((step + 1) * ((index * (5**0.5 - 1) / 2 + index.sqrt()) % 1)) % 1) - 1
        ones, mean = torch.ones(COUNT, dtype=torch.float64), torch.stack(losses).mean()
        seen = torch.stack([
            at / 5, points[best] / 5, q, (losses[-1] - mean) / spread * ones, (losses[best] - mean) / spread * ones
        ], 1)  # fmt: skip
        h, hidden = plain(seen[None], hidden)
        named = torch.tanh(h[0] @ rule.read_out[0] + rule.around * q + rule.read_out_bias)
        torch.testing.assert_close(found, 5 * named, rtol=1e-9, atol=1e-9)
        at = found


@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0.0), (1e-6, 0.0), (1.0, 100.0)])
def test_the_scale_of_the_loss_means_nothing(scale: float, shift: float) -> None:
    rule = made()
    for a, b in zip(walked(rule, 10), walked(rule, 10, scale, shift), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_no_point_is_outside_of_the_box_and_a_lost_loss_is_passed_over() -> None:
    path = torch.stack(walked(made(), 30, lost=4))
    assert path.isfinite().all()
    assert path.abs().max() <= 5
    assert path.std(0).min() > 1  # an untrained one looks around


class Bowl(recopt.Task):
    """The squared distance to a place between 1 and 3 in each coordinate, from 0."""

    def model(self) -> nn.Module:
        return Point(torch.zeros(2))

    def batch(self, index: int, split: str = "train") -> Tensor:
        return 1 + 2 * torch.rand(2, generator=self.generator(0))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        return (model() - batch).square().sum()


def test_a_level_above_trains_it_from_values() -> None:
    settings = ["every=10", "episode=10", "objective=last", "pairs=4", "sigma=0.05"]
    found = recopt.run(Bowl(), "rnn-opt/adam(lr=0.03)", settings=[f"level2.{x}" for x in settings], tasks=4, steps=400,
                       track=False, measure=0, progress=False)  # fmt: skip
    losses = found.history("meta_loss", 2)[1]
    assert len(losses) == 39
    assert losses[-10:].mean() < 0.25 * losses[:10].mean()
