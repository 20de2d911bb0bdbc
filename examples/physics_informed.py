"""A network that solves u'' = −π² sin(πx), u(0) = u(1) = 0, from the equation alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from versus_adam import Make, at_its_best, main


def residual(model: nn.Module, x: Tensor) -> Tensor:
    """u''(x) + π² sin(πx) at the points x [n, 1]."""
    x = x.requires_grad_()
    u = model(x)
    slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
    return bend + torch.pi**2 * (torch.pi * x).sin()


def train(make: Make, steps: int, seed: int) -> float:
    """The largest error of u on a grid."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = make(model.parameters())
    ends, grid = torch.tensor([[0.0], [1.0]]), torch.linspace(0, 1, 201)[:, None]
    for _ in range(steps):
        optimizer.zero_grad()
        (residual(model, torch.rand(64, 1)).square().mean() + 100 * model(ends).square().mean()).backward()
        optimizer.step()
    with at_its_best(optimizer), torch.no_grad():
        return (model(grid) - (torch.pi * grid).sin()).abs().max().item()


if __name__ == "__main__":
    main(train, "largest error of u", steps=1_000)
