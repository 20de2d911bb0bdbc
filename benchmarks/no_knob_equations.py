"""The tasks of no_knob.py in which a network is fitted to an equation, without data."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from no_knob_jobs import Job, Pair, _random, mlp
from torch import Tensor, nn


def poisson(seed: int) -> Job:
    """u″ = f on [0, 1] with u = 0 at both ends: a physics-informed network; scored by the error of u."""
    network, rng = mlp(1, 32, 32, 1, act=nn.Tanh), _random(seed)

    def solution(x: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * x) + 0.3 * torch.sin(6 * math.pi * x)

    def step() -> Tensor:
        x = torch.rand(64, 1, generator=rng).requires_grad_()
        u = network(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        pi = 2 * math.pi
        wanted = -(pi**2) * torch.sin(pi * x) - 0.3 * (3 * pi) ** 2 * torch.sin(3 * pi * x)
        ends = network(torch.tensor([[0.0], [1.0]]))
        return ((curve - wanted) / 40).square().mean() + ends.square().mean()

    def score() -> float:
        x = torch.linspace(0, 1, 200)[:, None]
        with torch.no_grad():
            return (network(x) - solution(x)).square().mean().item() ** 0.5

    return Job([network], [step], score)


def oscillator(seed: int) -> Job:
    """u″ + 0.4 u′ + 16 u = 0 on [0, 2] from u = 1 at rest: likewise."""
    network, rng = mlp(1, 40, 40, 1, act=nn.Tanh), _random(seed)

    def step() -> Tensor:
        t = 2 * torch.rand(64, 1, generator=rng)
        t[0] = 0
        t.requires_grad_()
        u = network(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        (curve,) = torch.autograd.grad(slope.sum(), t, create_graph=True)
        start = (u[0] - 1).square().sum() + slope[0].square().sum() / 16
        return ((curve + 0.4 * slope + 16 * u) / 16).square().mean() + start

    def score() -> float:
        t, w = torch.linspace(0, 2, 200)[:, None], (16 - 0.04) ** 0.5
        exact = torch.exp(-0.2 * t) * (torch.cos(w * t) + 0.2 / w * torch.sin(w * t))
        with torch.no_grad():
            return (network(t) - exact).square().mean().item() ** 0.5

    return Job([network], [step], score)


def slopes(u: Tensor, at: Tensor) -> Tensor:
    """The gradient of each entry of ``u``, to be differentiated further."""
    return torch.autograd.grad(u.sum(), at, create_graph=True)[0]


def physics(
    network: nn.Module, residual: Callable[[nn.Module, torch.Generator], Tensor], exact: Pair, seed: int
) -> Job:
    """A network of coordinates, trained on an equation; scored by its distance from the solution."""
    rng = _random(seed)

    def score() -> float:
        with torch.no_grad():
            return float((network(exact[0]) - exact[1]).square().mean() ** 0.5)

    return Job([network], [lambda: residual(network, rng)], score)


def heat(seed: int) -> Job:
    """u_t = 0.1 u_xx on [0, 1]², from sin(πx) + sin(2πx) / 2, zero at both ends."""

    def solution(at: Tensor) -> Tensor:
        x, t, p = at[:, :1], at[:, 1:], math.pi
        return torch.sin(p * x) * torch.exp(-0.1 * p**2 * t) + torch.sin(2 * p * x) * torch.exp(-0.4 * p**2 * t) / 2

    def residual(network: nn.Module, rng: torch.Generator) -> Tensor:
        at, first, ends = torch.rand(3, 96, 2, generator=rng)
        at.requires_grad_()
        first[:, 1] = 0
        ends[:, 0] = (ends[:, 0] > 0.5).float()
        du = slopes(network(at), at)
        inside = (du[:, 1] - 0.1 * slopes(du[:, 0], at)[:, 0]).square().mean()
        return inside + 10 * (network(first) - solution(first)).square().mean() + 10 * network(ends).square().mean()

    where = torch.rand(500, 2, generator=_random(23))
    return physics(mlp(2, 32, 32, 32, 1, act=nn.Tanh), residual, (where, solution(where)), seed)


def logistic_growth(seed: int) -> Job:
    """u′ = 3 u (1 − u) on [0, 3] from u = 0.05."""

    def residual(network: nn.Module, rng: torch.Generator) -> Tensor:
        t = (3 * torch.rand(48, 1, generator=rng)).requires_grad_()
        u = network(t)
        start = (network(torch.zeros(1, 1)) - 0.05).square().sum()
        return (slopes(u, t) - 3 * u * (1 - u)).square().mean() + 20 * start

    where = torch.linspace(0, 3, 100)[:, None]
    return physics(mlp(1, 24, 24, 1, act=nn.Tanh), residual, (where, 1 / (1 + 19 * torch.exp(-3 * where))), seed)
