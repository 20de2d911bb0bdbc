"""Closed forms of the quadratic, Rosenbrock and Rastrigin tasks, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import recopt.tasks
from recopt.checking.errors import RecoptError
from recopt.tasks.functions import Function
from recopt.tasks.quadratic import Quadratic


def function(name: str, **options: Any) -> Function:
    task = recopt.tasks.make(name, **options)
    assert isinstance(task, Function)
    return task


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_rosenbrock_known_values(dim: int) -> None:
    task = function("rosenbrock", dim=dim)
    assert task.value(torch.ones(dim)) == 0
    assert task.value(torch.zeros(dim)) == dim - 1
    assert task.value(torch.full((dim,), 2.0)) == (dim - 1) * 401
    assert task.value(torch.tensor([-1.2, 1.0])) == pytest.approx(24.2)


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_rastrigin_known_values(dim: int) -> None:
    task = function("rastrigin", dim=dim)
    assert task.value(torch.zeros(dim)) == 0
    assert task.value(torch.ones(dim)) == pytest.approx(dim, rel=1e-5)
    assert task.value(torch.full((dim,), 0.5)) == pytest.approx(20.25 * dim)
    assert function("rastrigin", dim=dim, amplitude=0.0).value(torch.full((dim,), 3.0)) == 9 * dim


def test_starts_lie_around_the_usual_ones() -> None:
    torch.manual_seed(0)
    starts = torch.stack([function("rosenbrock", dim=4).start() for _ in range(500)])
    assert torch.allclose(starts.mean(0), torch.tensor([-1.2, 1.0, -1.2, 1.0]), atol=0.02)
    assert torch.allclose(starts.std(0), torch.tensor(0.1), atol=0.02)
    cube = torch.stack([function("rastrigin", dim=4).start() for _ in range(500)])
    assert 4.9 < float(cube.abs().max()) <= 5.12
    assert float(cube.std()) == pytest.approx(5.12 / math.sqrt(3), rel=0.05)


@torch.no_grad()
def test_distance_is_to_the_minimizer() -> None:
    for name, minimum in (("rosenbrock", 1.0), ("rastrigin", 0.0)):
        task = function(name, dim=3)
        model = task.model()
        next(model.parameters()).copy_(torch.tensor([minimum + 3.0, minimum, minimum - 4.0]))
        assert task.metrics(model, task.batch(0, "test"))["distance"] == pytest.approx(5.0)


def test_noise_tilts_training_batches_only() -> None:
    task = function("rastrigin", dim=1000, noise=0.5)
    tilt = task.batch(4)
    assert float(tilt.std()) == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(tilt, task.batch(5))
    assert not torch.equal(tilt, task.sample(1).batch(4))
    assert not task.batch(4, "valid").any()
    model = task.model()
    theta = next(model.parameters())
    noisy, clean = (torch.autograd.grad(task.loss(model, b), theta)[0] for b in (tilt, task.batch(4, "test")))
    assert torch.allclose(noisy - clean, tilt, atol=1e-4)


@torch.no_grad()
def test_quadratic_is_the_sum_of_squared_residuals() -> None:
    task = recopt.tasks.make("quadratic", seed=11)
    model = task.model()
    matrix, target = task.batch(0)
    assert (matrix.shape, target.shape) == ((10, 10), (10,))
    assert torch.equal(next(model.parameters()), torch.zeros(10))
    assert task.loss(model, (matrix, target)) == pytest.approx(float((target**2).sum()))
    next(model.parameters()).copy_(torch.linalg.solve(matrix, target))
    assert float(task.loss(model, (matrix, target))) < 1e-6


def test_quadratic_entries_are_standard_normal() -> None:
    pairs = [Quadratic(seed=seed).batch(0) for seed in range(300)]
    for drawn in (torch.stack([w for w, _ in pairs]), torch.stack([y for _, y in pairs])):
        assert float(drawn.mean()) == pytest.approx(0, abs=0.05)
        assert float(drawn.std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("conditioning", [1.0, 10.0, 1000.0])
def test_quadratic_conditioning_is_that_of_the_matrix(conditioning: float) -> None:
    matrix, _ = recopt.tasks.make("quadratic", dim=8, conditioning=conditioning).batch(0)
    values = torch.linalg.svdvals(matrix.double())
    assert float(values[0] / values[-1]) == pytest.approx(conditioning, rel=1e-3)
    assert float(matrix.norm()) == pytest.approx(8, rel=1e-5)


def test_the_normal_start_is_not_drawn_from_the_stream_of_the_matrix() -> None:
    task = recopt.tasks.make("quadratic", seed=5, start="normal")
    torch.manual_seed(5)
    assert not torch.equal(next(task.model().parameters()), task.batch(0)[0][0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("quadratic", {"dim": 0}, "quadratic.dim must be at least 1, not 0"),
        ("quadratic", {"conditioning": 0.5}, "quadratic.conditioning must be 0 or at least 1, not 0.5"),
        ("quadratic", {"start": "zeros"}, "quadratic.start"),
        ("quadratic", {"dims": 3}, "Did you mean 'dim'"),
        ("rosenbrock", {"dim": 1}, "rosenbrock.dim must be at least 2, not 1"),
        ("rastrigin", {"noise": -1}, "rastrigin.noise must be at least 0, not -1"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecoptError, match=message):
        recopt.tasks.make(name, **options)
