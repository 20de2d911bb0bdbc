"""A pole balanced on a cart, by policy gradients with a baseline; the environment needs nothing but torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from versus_adam import Make, at_its_best, main

CARTS = 16
HORIZON = 200


def physics(state: Tensor, push: Tensor) -> Tensor:
    """The next states [carts, 4] (place, speed, angle, its speed) 0.02 s later (Barto, Sutton & Anderson 1983)."""
    x, v, angle, spin = state.unbind(1)
    force = 20.0 * push - 10.0
    pull = (force + 0.05 * spin**2 * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - angle.cos() * pull) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
    speed = pull - 0.05 * turn * angle.cos() / 1.1
    return torch.stack([x + 0.02 * v, v + 0.02 * speed, angle + 0.02 * spin, spin + 0.02 * turn], 1)


def play(policy: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and whether the pole still stood, [steps, carts] each."""
    state, alive = 0.05 * torch.randn(CARTS, 4), torch.ones(CARTS)
    logs, values, stood = [], [], []
    for _ in range(HORIZON):
        left, right, value = policy(state).unbind(1)
        chosen = Categorical(logits=torch.stack([left, right], 1))
        push = chosen.sample()
        logs.append(chosen.log_prob(push))
        values.append(value)
        stood.append(alive)
        state = physics(state, push.float())
        alive = alive * ((state[:, 0].abs() < 2.4) & (state[:, 2].abs() < 0.21)).float()
        if not alive.any():
            break
    return torch.stack(logs), torch.stack(values), torch.stack(stood)


def returns(stood: Tensor, discount: float = 0.98) -> Tensor:
    """Discounted seconds to live, [steps, carts]."""
    total, found = torch.zeros(CARTS), []
    for reward in stood.flip(0):
        total = reward + discount * total
        found.append(total)
    return torch.stack(found).flip(0) / 50


def train(make: Make, steps: int, seed: int) -> float:
    """Steps missing to 200 at which the pole falls, the mean over 16 carts."""
    torch.manual_seed(seed)
    policy = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3))
    optimizer = make(policy.parameters())
    for _ in range(steps):
        logs, values, stood = play(policy)
        gain = (returns(stood) - values) * stood
        optimizer.zero_grad()
        ((gain**2).sum() / stood.sum() - (gain.detach() * logs).sum() / stood.sum()).backward()
        optimizer.step()
    with at_its_best(optimizer), torch.no_grad():
        return HORIZON - play(policy)[2].sum(0).mean().item()


if __name__ == "__main__":
    main(train, "steps missing to 200", steps=100)
