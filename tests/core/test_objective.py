"""Meta-losses and their derivatives."""

from __future__ import annotations

import pytest
import torch

from recopt.levels.objective import score

LOSSES = [torch.tensor(x, dtype=torch.float64) for x in (4.0, 2.0, 3.0)]
START = torch.tensor(5.0, dtype=torch.float64)


@pytest.mark.parametrize("name", ["mean", "sum", "last", "improvement"])
def test_weights_are_the_derivatives(name: str) -> None:
    inputs = [x.clone().requires_grad_() for x in [START, *LOSSES]]
    value, weights = score(name, inputs[1:], inputs[0])
    grads = torch.autograd.grad(value, inputs, allow_unused=True)
    assert [float(w.detach()) for w in map(torch.as_tensor, weights)] == pytest.approx(
        [0.0 if g is None else float(g) for g in grads]
    )


def test_values() -> None:
    found = {n: float(score(n, LOSSES, START)[0]) for n in ("mean", "sum", "last")}
    assert found == {"mean": 3.0, "sum": 9.0, "last": 3.0}
    assert float(score("improvement", LOSSES, START)[0]) == pytest.approx(torch.tensor(0.6).log().item())
    assert float(score("improvement", LOSSES, None)[0]) == 0


@pytest.mark.parametrize(("target", "steps"), [(4.5, 1), (2.5, 2), (1.0, 4), (-1.0, 4)])
def test_steps_to(target: float, steps: int) -> None:
    value, weights = score(f"steps_to: {target}", LOSSES, START)
    assert float(value) == steps
    assert [float(w) for w in weights] == [0.0] * 4


def test_over_tasks() -> None:
    losses = [torch.tensor([4.0, 1.0]), torch.tensor([2.0, 9.0])]
    assert score("steps_to: 2", losses, None)[0].tolist() == [2.0, 1.0]
    assert score("mean", losses, None)[0].tolist() == [3.0, 5.0]
