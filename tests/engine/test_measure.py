"""Measurements on held-out data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recopt.contracts.task import Batch, Split
from recopt.contracts.trees import tensors
from recopt.engine import measure as held_out

from .. import engines


class Noisy(engines.Regression):
    """With everything that differs in evaluation mode."""

    def model(self) -> nn.Module:
        still = nn.Linear(3, 3).requires_grad_(False)
        return nn.Sequential(still, nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))

    def batches(self, split: Split) -> int:
        return 3

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"gap": (model(batch[0]) - batch[1]).abs().mean()}


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_mean_over_a_pass_in_evaluation_mode_without_a_trace(tasks: int) -> None:
    made = engines.engine(Noisy(seed=1), "adam(lr=0.02)/sgd", seed=1, tasks=tasks)
    made.run(10)
    before, rng = [t.clone() for t in tensors(made.state)], torch.get_rng_state()
    found = held_out.measure(made, "valid")
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(made.state), strict=True))
    total = []
    for task, model in zip(made.family.drawn(0).tasks, held_out.models(made), strict=True):
        model.eval()
        with torch.no_grad():
            total += [float(task.loss(model, task.batch(k, "valid"))) for k in range(3)]
    assert found["loss"] == pytest.approx(sum(total) / len(total), rel=1e-12)
    assert found["gap"] > 0
    assert held_out.measure(made, "valid") == found


def test_a_trial_that_is_open_is_not_what_is_measured() -> None:
    made = engines.engine(Noisy(seed=1), "adam(lr=0.02)/annealing", {2: {"every": 5}}, seed=1)
    while not made.trials.active(made.state) or not (made.state.levels[1].search or made).scores:  # type: ignore[union-attr]
        made.step()
    settled = held_out.settled(made)
    assert settled is not made.state
    assert not settled.levels[1].search
    assert held_out.measure(made, "test", settled) != held_out.measure(made, "test")
