"""A generator and a discriminator, each with an optimizer of its own, on a ring of eight modes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from versus_adam import Make, at_its_best, main

ANGLES = torch.arange(8) * (2 * torch.pi / 8)
MODES = torch.stack([ANGLES.cos(), ANGLES.sin()], 1)


def real(count: int) -> Tensor:
    """Points [count, 2] around the eight modes."""
    return MODES[torch.randint(8, (count,))] + 0.05 * torch.randn(count, 2)


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers of 64."""
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, outputs)
    )


def train(make: Make, steps: int, seed: int) -> float:
    """Modes that the generator misses: fewer than 1 % of its points within 0.2 of them."""
    torch.manual_seed(seed)
    generator, critic = network(8, 2), network(2, 1)
    for_generator, for_critic = make(generator.parameters()), make(critic.parameters())
    for _ in range(steps):
        for_critic.zero_grad()
        fake = generator(torch.randn(128, 8))
        (softplus(-critic(real(128))) + softplus(critic(fake.detach()))).mean().backward()
        for_critic.step()
        for_generator.zero_grad()
        softplus(-critic(fake)).mean().backward()
        for_generator.step()
    with at_its_best(for_generator), torch.no_grad():
        near = torch.cdist(generator(torch.randn(2_000, 8)), MODES) < 0.2
        return float((near.float().mean(0) < 0.01).sum())


if __name__ == "__main__":
    main(train, "modes missed, of eight", steps=2_000)
