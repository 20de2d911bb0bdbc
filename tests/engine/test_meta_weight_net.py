"""Meta-Weight-Net as a level over ``loss``, beside the same by hand in plain torch (Shu et al. 2019, 1902.07379)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recopt.tasks.noisy_labels import NoisyLabels

from ..engines import engine, params

RATE, MOMENTUM, DECAY, OUTER, STEPS = 0.1, 0.9, 5e-4, 1e-3, 40


class Weighing(NoisyLabels):
    """Digits with flipped labels, whose weigher begins anywhere."""

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        told = {"of": "digits(hidden=[12], activation=relu, batch_size=30)", "clean": 100}
        super().__init__(seed=seed, **{**told, **options})

    def loss_parameters(self) -> nn.Module:
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(1, self.width), nn.ReLU(), nn.Linear(self.width, 1))


def answers(theta: list[Tensor], x: Tensor) -> Tensor:
    return torch.relu(x.flatten(1) @ theta[0].T + theta[1]) @ theta[2].T + theta[3]


def weighed(theta: list[Tensor], phi: list[Tensor], batch: list[Tensor]) -> Tensor:
    losses = cross_entropy(answers(theta, batch[0].double()), batch[1], reduction="none")
    weights = (torch.relu(losses.detach()[:, None] @ phi[0].T + phi[1]) @ phi[2].T + phi[3])[:, 0].sigmoid()
    return (weights * losses).sum() / weights.sum().detach()


@pytest.mark.filterwarnings("ignore:An exact level gets")  # no derivative is taken through losses that are weighed
def test_hypergradients_and_weights_are_those_of_a_loop_by_hand() -> None:
    task = Weighing()
    stack = f"sgd(lr={RATE}, momentum={MOMENTUM}, weight_decay={DECAY})/loss:adam(lr={OUTER})"
    made = engine(task, stack, {0: {"guard": False}, 2: {"normalize": "none"}})
    theta, phi = ([p.requires_grad_() for p in params(made, slot)] for slot in ("task", "loss"))
    adam, momenta, heard = torch.optim.Adam(phi, OUTER), [torch.zeros_like(p) for p in theta], list[list[Tensor]]()
    deliver = made.tower.up._deliver

    def hear(state: Any, number: int, signal: Any) -> None:
        if number == 1:
            heard.append([g.detach().clone() for g in signal.grads])
        deliver(state, number, signal)

    made.tower.up._deliver = hear  # type: ignore[method-assign]
    made.run(1)
    for step in range(STEPS):
        grads = torch.autograd.grad(weighed(theta, phi, task.batch(step)), theta, create_graph=True)
        momenta = [MOMENTUM * m.detach() + g + DECAY * p for m, g, p in zip(momenta, grads, theta, strict=True)]
        moved = [p - RATE * m for p, m in zip(theta, momenta, strict=True)]
        assert all(map(torch.allclose, params(made), (p.detach() for p in moved)))
        x, y = task.batch(step + 1, "valid")[:2]
        cross_entropy(answers(moved, x.double()), y).backward(inputs=phi)
        made.run(step + 2)
        for mine, p in zip(heard[-1], phi, strict=True):
            assert p.grad is not None
            torch.testing.assert_close(mine, p.grad, rtol=1e-8, atol=1e-10 * float(p.grad.abs().max()))
        adam.step()
        adam.zero_grad()
        theta = [p.detach().requires_grad_() for p in moved]
    for mine, p in zip(params(made, "loss"), phi, strict=True):
        torch.testing.assert_close(mine, p.detach(), rtol=1e-9, atol=1e-9)
