"""With a scale-free first level, multiplying the loss by 10^k leaves every level on the same trajectory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .. import engines

STACKS: dict[str, tuple[str, dict[int, dict[str, Any]]]] = {
    "adam/hypergradient": ("adam(lr=0.02, eps=0)/hypergradient", {}),
    "adam/sgd/sgd": ("adam(lr=0.02, eps=0)/sgd/sgd", {2: {"normalize": "rms"}, 3: {"normalize": "rms"}}),
    "adam/adagrad": ("adam(lr=0.02, eps=0)/adagrad(lr=1)[lr]", {}),
    "sgd[unit]/adam": ("sgd(lr=0.02)/adam(eps=0)", {1: {"normalize": "unit"}, 2: {"normalize": "rms"}}),
    "sgd[rms]/adam/sgd": ("sgd(lr=0.02)/adam(eps=0)/sgd", {1: {"normalize": "rms"}}),
    "adam[clip_each]/adam[clip_each]": (
        "adam(lr=0.02, eps=0)/adam(eps=0)",
        {1: {"normalize": "clip_each"}, 2: {"normalize": "clip_each"}},
    ),
    "exact": ("adam(lr=0.02, eps=0)/sgd", {2: {"gradient": "unroll", "second_order": True, "every": 3}}),
    "windows": ("adam(lr=0.02, eps=0)/adam(eps=0)", {2: {"gradient": "unroll", "every": 4, "normalize": "unit"}}),
    "adam/annealing": ("adam(lr=0.02, eps=0)/annealing", {2: {"every": 6}}),
    "adam/hypergradient/annealing": ("adam(lr=0.02, eps=0)/hypergradient/annealing", {3: {"every": 6}}),
}


def end(name: str, power: int, dtype: torch.dtype) -> dict[str, list[torch.Tensor]]:
    stack, settings = STACKS[name]
    task = engines.Regression(seed=1)
    task.scale = 10.0**power
    made = engines.engine(task, stack, settings, seed=1, dtype=dtype)
    made.run(60)
    return engines.everything(made)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", STACKS)
def test_the_scale_of_the_loss_does_not_matter(name: str, dtype: torch.dtype) -> None:
    # What is left is rounding, and what 60 steps make of it.
    bound = 1e-8 if dtype == torch.float64 else 5e-3
    base = end(name, 0, dtype)
    assert any(float((a - b).abs().max()) > 1e-3 for a, b in zip(base["task"], start(dtype), strict=True))
    for power in (k for k in range(-6, 7) if k):
        for slot, values in end(name, power, dtype).items():
            for a, b in zip(values, base[slot], strict=True):
                torch.testing.assert_close(a, b, rtol=bound, atol=bound, msg=f"{slot}, 10^{power}: {a} {b}")


def start(dtype: torch.dtype) -> list[torch.Tensor]:
    return engines.params(engines.engine(engines.Regression(seed=1), "sgd", seed=1, dtype=dtype))


def test_without_it_the_scale_matters() -> None:
    STACKS["raw"] = ("sgd(lr=0.02)/sgd", {2: {"normalize": "none"}})
    a, b = end("raw", 0, torch.float64), end("raw", -3, torch.float64)
    del STACKS["raw"]
    assert float((a["task"][0] - b["task"][0]).abs().max()) > 1e-3
