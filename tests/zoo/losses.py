"""Losses of models' own: that never call ``forward``, or differentiate inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from . import add


class Loss(nn.Module):
    """Two parts, and a loss of its own that never calls ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 4), nn.Linear(4, 6)

    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.enc(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.dec(z)


class Auto(Loss):
    def own_loss(self, x: Tensor) -> Tensor:
        return (self.dec(self.encode(x)) - x).square().mean()


class Variational(Loss):
    def own_loss(self, x: Tensor) -> Tensor:
        mean, spread = self.enc(x).chunk(2, -1)
        z = mean + spread.exp() * torch.randn_like(mean)
        return (self.dec(torch.cat([z, z], -1)) - x).square().mean() + mean.square().mean()


class Step(Loss):
    def training_step(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.decode(self.encode(x)) - x).abs().mean()}

    def own_loss(self, x: Tensor) -> Tensor:
        return self.training_step(x)["loss"]


class ActorCritic(Loss):
    def own_loss(self, x: Tensor) -> Tensor:
        value = self.decode(self.encode(x))[:, 0]
        return -(self.enc(x).log_softmax(-1)[:, 0] * (1 - value.detach())).mean() + (value - 1).square().mean()


class Physics(Loss):
    """u'' + u = 0 at random points."""

    def own_loss(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            u = self.decode(self.encode(x)).sum()
        (slope,) = torch.autograd.grad(u, x, create_graph=True)
        (second,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (second + u).square().mean()


class Penalty(Loss):
    def own_loss(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        out = self.decode(self.encode(x)).sum(-1)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out.mean() + (slope.norm(dim=-1) - 1).square().mean()


class Adversary(Loss):
    def own_loss(self, x: Tensor) -> Tensor:
        at = x.detach().requires_grad_()
        (g,) = torch.autograd.grad((self.decode(self.encode(at)) - x).square().mean(), at)
        return (self.decode(self.encode(x + 0.1 * g.sign())) - x).square().mean()


class Inner(Loss):
    """The loss after a step on half of the batch."""

    def own_loss(self, x: Tensor) -> Tensor:
        own = list(self.dec.parameters())
        z = self.encode(x)
        grads = torch.autograd.grad((fn.linear(z[:2], *own) - x[:2]).square().mean(), own, create_graph=True)
        fast = [p - 0.1 * g for p, g in zip(own, grads, strict=True)]
        return (fn.linear(z[2:], *fast) - x[2:]).square().mean()


class Functional(Loss):
    def own_loss(self, x: Tensor) -> Tensor:
        slopes = torch.func.vmap(torch.func.jacrev(lambda row: self.decode(self.encode(row)).sum()))(x)
        return (slopes - 1).square().mean()


add(
    "losses of their own",
    autoencoder=Auto,
    variational=Variational,
    training_step=Step,
    actor_critic=ActorCritic,
    physics=Physics,
    penalty=Penalty,
    adversary=Adversary,
    inner_step=Inner,
    jacobian=Functional,
)
