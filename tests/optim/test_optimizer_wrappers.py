"""recopt.Optimizer inside other people's optimizers: SAM, Lookahead, and in another process."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recopt

from ..loops import distance


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization as it is usually written: its groups are those of the optimizer inside."""

    def __init__(self, params: Any, inner: Any, rho: float = 0.05, **settings: Any) -> None:
        super().__init__(params, {"rho": rho, **settings})
        self.inner = inner(self.param_groups, **settings)
        self.param_groups = self.inner.param_groups

    @torch.no_grad()
    def climb(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.clone()
                p.add_(p.grad, alpha=group["rho"] / p.grad.norm())

    @torch.no_grad()
    def descend(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.inner.step()


class Lookahead:
    """Lookahead as it is usually written: its slow weights are in the state of the optimizer inside."""

    def __init__(self, inner: torch.optim.Optimizer, k: int = 3) -> None:
        self.inner, self.k, self.steps = inner, k, 0
        self.state: defaultdict[Tensor, Any] = inner.state

    def step(self) -> None:
        self.inner.step()
        self.steps += 1
        for group in self.inner.param_groups if self.steps % self.k == 0 else []:
            for p in group["params"]:
                slow = self.state[p].setdefault("slow", torch.zeros_like(p.data))
                slow += 0.5 * (p.data - slow)
                p.data.copy_(slow)


def trained(wrapped: str, make: Any) -> list[float]:
    w = nn.Parameter(torch.ones(5))
    outer: Any = Sam([w], make, lr=0.05) if wrapped == "sam" else Lookahead(make([w], lr=0.05))
    for _ in range(7):
        w.grad = None
        distance(w).backward()
        if wrapped == "sam":
            outer.climb()
            w.grad = None
            distance(w).backward()
            outer.descend()
        else:
            outer.step()
    return w.tolist()


@pytest.mark.parametrize("wrapped", ["sam", "lookahead"])
def test_wrappers_give_what_they_give_around_torchs(wrapped: str) -> None:
    def ours(params: Any, **settings: Any) -> recopt.Optimizer:
        return recopt.Optimizer(params, "sgd", **settings)

    assert trained(wrapped, ours) == pytest.approx(trained(wrapped, torch.optim.SGD), rel=1e-6)

    def tower(params: Any, **settings: Any) -> recopt.Optimizer:
        return recopt.Optimizer(params, "adam/sgd", **settings)

    assert all(torch.isfinite(torch.tensor(trained(wrapped, tower))))


@pytest.mark.parametrize("stack", ["adam/sgd", "learned"])
def test_a_pickle_is_opened_in_another_process(stack: str, tmp_path: Path) -> None:
    w = nn.Parameter(torch.ones(5))
    optimizer = recopt.Optimizer([w], stack)
    for _ in range(2):
        optimizer.zero_grad()
        loss = distance(w)
        loss.backward()
        optimizer.step(loss=loss)
    torch.save(optimizer, tmp_path / "optimizer")
    code = (
        "import sys, torch; o = torch.load(sys.argv[1], weights_only=False); p = o.param_groups[0]['params'][0]; "
        "p.grad = torch.ones(5); o.step(loss=1.0); print(p.tolist(), o.hyperparameters())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "optimizer")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    w.grad = torch.ones(5)
    optimizer.step(loss=1.0)
    assert found.stdout.strip() == f"{w.tolist()} {optimizer.hyperparameters()}"
