"""The functions of the BBOB kind: known values, random shifts and rotations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import recopt.tasks
from recopt.tasks.landscape import FUNCTIONS
from recopt.testing import check_task

KNOWN: dict[str, list[tuple[list[float], float]]] = {
    "rastrigin": [([1.0, 1.0, 1.0], 3.0), ([0.5, 0.0, 0.0], 20.25)],
    "rosenbrock": [([-1.0, -1.0, -1.0], 2.0), ([1.0, 1.0, 1.0], 802.0)],
    "ellipsoid": [([1.0, 1.0, 1.0], 1 + 1e3 + 1e6)],
    "discus": [([2.0, 1.0, 1.0], 4e6 + 2)],
    "cigar": [([2.0, 1.0, 1.0], 4 + 2e6)],
    "ridge": [([2.0, 3.0, 4.0], 4 + 500)],
    "powers": [([2.0, 2.0, 2.0], math.sqrt(4 + 16 + 64))],
    "steps": [([0.0, 0.0, 2.4], 0.1 * 400), ([0.0, 0.04, 0.04], 0.0), ([1e-2, 0.0, 0.0], 1e-7)],
    "griewank": [([0.1 * math.pi, 0.0, 0.0], math.pi**2 / 4000 + 2)],
    "ackley": [([1.0, 1.0, 1.0], 20 - 20 * math.exp(-0.2))],
}


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_known_values(name: str) -> None:
    assert float(FUNCTIONS[name](tensor([0.0, 0.0, 0.0]))) == pytest.approx(0, abs=1e-12)
    for point, value in KNOWN[name]:
        assert float(FUNCTIONS[name](tensor(point))) == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_the_formula_about_a_least_point_of_its_own(name: str) -> None:
    found, away = set(), tensor([0.52, 0.27, -1.1, 2.1])
    for seed in range(3):
        task = recopt.tasks.make("landscape", function=name, dim=4, seed=seed)
        least, turn = task.batch(0)
        assert torch.allclose(turn @ turn.T, torch.eye(4, dtype=torch.float64), atol=1e-12)
        assert float(least.abs().max()) <= (3 if name == "rosenbrock" else 4)
        model = task.model().double()
        with torch.no_grad():
            next(model.parameters()).copy_(least + turn.T @ away)
        value = FUNCTIONS[name](away)
        assert float(task.loss(model, task.batch(5, "valid")).detach()) == pytest.approx(float(value), rel=1e-9)
        assert float(task.metrics(model, task.batch(0))["distance"].detach()) == pytest.approx(float(away.norm()))
        found.add(float(least[0]))
    assert len(found) == 3


def test_without_rotation_the_coordinates_are_the_formulas() -> None:
    task = recopt.tasks.make("landscape", dim=4, rotated=False)
    assert torch.equal(task.batch(0)[1], torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("options", [{}, {"function": "ellipsoid", "dim": 3}])
def test_it_conforms(options: dict[str, Any]) -> None:
    assert check_task(lambda seed: recopt.tasks.make("landscape", seed, **options)) == []
