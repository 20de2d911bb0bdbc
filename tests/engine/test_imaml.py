"""iMAML as a level over ``init``, beside the same by hand in plain torch (Rajeswaran et al. 2019, 1909.04630)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from recopt.tasks.few_shot import FewShot

from ..engines import engine, params

RATE, OUTER, PULL, INNER, ITERATIONS, UPDATES = 0.25, 1e-3, 2.0, 16, 5, 4


def loss(theta: list[Tensor], batch: Any) -> Tensor:
    hidden = torch.relu(batch[0].double().flatten(1) @ theta[0].T + theta[1])
    return cross_entropy(hidden @ theta[2].T + theta[3], batch[1])


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def by_hand(task: Any, start: list[Tensor]) -> Tensor:
    """(I + H/λ)⁻¹ ∇F at the end of an episode, by a few steps of conjugate gradients (alg. 1 and 2)."""
    theta = [p.clone() for p in start]
    for step in range(INNER):
        theta = [p.detach().requires_grad_() for p in theta]
        grads = torch.autograd.grad(loss(theta, task.batch(step)), theta)
        theta = [p - RATE * (g + PULL * (p - s)) for p, g, s in zip(theta, grads, start, strict=True)]
    theta = [p.detach().requires_grad_() for p in theta]
    grads = torch.autograd.grad(loss(theta, task.batch(INNER)), theta, create_graph=True)
    wanted = flat(torch.autograd.grad(loss(theta, task.batch(INNER, "valid")), theta))

    def product(v: Tensor) -> Tensor:
        pieces = [piece.view_as(p) for piece, p in zip(v.split([p.numel() for p in theta]), theta, strict=True)]
        return v + flat(torch.autograd.grad(grads, theta, pieces, retain_graph=True)) / PULL

    x, rest = torch.zeros_like(wanted), wanted
    along = rest
    for _ in range(ITERATIONS):
        turned = product(along)
        step = rest @ rest / (along @ turned)
        x, after = x + step * along, rest - step * turned
        along, rest = after + (after @ after) / (rest @ rest) * along, after
    return x


@pytest.mark.filterwarnings("ignore:gradient=implicit")  # it is the same iteration, far from rest or not
@pytest.mark.parametrize("tasks", [1, 3])
def test_starts_are_those_of_a_loop_by_hand(tasks: int) -> None:
    told = {"gradient": "implicit", "episode": INNER, "proximal": PULL, "iterations": ITERATIONS, "tolerance": 0.0,
            "normalize": "none"}  # fmt: skip
    family = FewShot(of="digits(hidden=[8], activation=relu)")
    made = engine(family, f"sgd(lr={RATE})/init:adam(lr={OUTER})", {0: {"guard": False}, 2: told}, tasks=tasks)
    start = [p.requires_grad_() for p in params(made, "init")]
    adam = torch.optim.Adam(start, OUTER)
    for update in range(UPDATES):
        drawn = made.family.drawn(update).tasks
        found = torch.stack([by_hand(task, [p.detach() for p in start]) for task in drawn]).mean(0)
        for piece, p in zip(found.split([p.numel() for p in start]), start, strict=True):
            p.grad = piece.view_as(p)
        adam.step()
        made.run((update + 1) * INNER + 1)
        for mine, p in zip(params(made, "init"), start, strict=True):
            torch.testing.assert_close(mine, p.detach(), rtol=1e-8, atol=1e-8)
