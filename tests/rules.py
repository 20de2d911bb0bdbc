"""The learned strategies at work on noisy, badly scaled bowls, for their tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recopt import Params, State, Strategy, Trial
from recopt.toolkit import lstm

STRATEGIES = Path(__file__).parent.parent / "strategies"

NAMES = {
    "lstm": "Lstm", "rnnprop": "Rnnprop", "mlp_rule": "MlpRule", "hierarchical": "Hierarchical", "residual": "Residual",
    "blend": "Blend", "meta_lstm": "MetaLstm", "srwm": "Srwm",
}  # fmt: skip

SHAPES = [(6, 4), (6,), (3, 6), (3,)]

RNG = torch.Generator()


def with_the_fused_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few columns as they are here would go through the plain LSTM cell."""
    monkeypatch.setattr(lstm, "FEW", 0)
    monkeypatch.setattr(lstm, "COLUMNS", 20)


def strategy_class(name: str) -> type[Strategy]:
    spec = importlib.util.spec_from_file_location(f"learned_{name}", STRATEGIES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Strategy] = getattr(module, NAMES[name])
    return found


def make(name: str, **settings: Any) -> Strategy:
    torch.manual_seed(3)
    rule = strategy_class(name)(**settings).double()
    with torch.no_grad():  # Away from read-outs that start at zero, where half of the gradients vanish.
        for p in rule.parameters():
            if p.dim() > 0:
                p.add_(0.05 * torch.randn_like(p))
    return rule


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_grads(point: Params, step: int) -> tuple[Tensor, Params]:
    """A noisy, badly scaled bowl: any rule can be run on it, and its gradients differ from step to step."""
    scales = [10.0**-i for i in range(len(point))]
    loss = torch.stack([s * (p - 1).square().sum() for s, p in zip(scales, point, strict=True)]).sum()
    return loss, [
        2 * s * (p - 1) + 0.01 * s * numbers(*p.shape, seed=100 * step + i)
        for i, (s, p) in enumerate(zip(scales, point, strict=True))
    ]


def start(seed: int = 0) -> Params:
    return [numbers(*shape, seed=10 * seed + i, scale=0.3) for i, shape in enumerate(SHAPES)]


def run(rule: Strategy, steps: int, seed: int = 0, factor: float = 1.0) -> tuple[list[Params], State]:
    """The deltas of ``steps`` steps, gradients held constant (no graph through the optimizee), and the state."""
    point = start(seed)
    state = rule.init(point)
    tape = []
    for step in range(steps):
        loss, grads = loss_grads(point, step)
        deltas, state = rule(point, [Trial(point, factor * loss, [factor * g for g in grads])], state, RNG)
        tape.append(deltas)
        point = [p + d.detach() for p, d in zip(point, deltas, strict=True)]
    return tape, state
