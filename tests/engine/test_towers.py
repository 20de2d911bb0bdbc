"""Online towers against the published implementation (Chandra et al. 2022, 1909.13371), step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from gradient_descent_the_ultimate_optimizer import gdtuo
from torch import Generator, Tensor, nn

from recopt.contracts.settings import real
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Batch, Split, Task

from .. import engines

RAW = {"normalize": "none", "guard": False}


class Published(Task):
    """A small classifier as the published tower sees it: in torch's default dtype, every batch alike on both sides."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def batch(self, index: int, split: Split = "train") -> Batch:
        g = self.generator(index)
        x = torch.randn(16, 6, generator=g)
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


class RawSgd(Strategy):
    """p − g α, with α on the line."""

    alpha = real(0.01)

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return [-(g * self.alpha) for g in trials[0].grads or []], state


def clamp(x: Tensor) -> Tensor:
    return (x.tanh() + 1.0) / 2.0


class RawAdam(Strategy):
    """Its Adam: tanh-clamped betas, v from eps, eps outside of the root and inside of v."""

    alpha = real(0.001)
    beta1 = real(float(gdtuo.Adam.unclamp(torch.tensor(0.9))))
    beta2 = real(float(gdtuo.Adam.unclamp(torch.tensor(0.999))))

    def init(self, point: Params) -> State:
        return {"t": 0, "m": [torch.zeros_like(p) for p in point], "v": [torch.zeros_like(p) + 1e-8 for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        t, beta1, beta2 = state["t"] + 1, clamp(self.beta1), clamp(self.beta2)
        grads = trials[0].grads or []
        # The published tower is truncated at every step, also in its moments.
        m = [beta1 * m.detach() + (1.0 - beta1) * g for m, g in zip(state["m"], grads, strict=True)]
        v = [beta2 * v.detach() + (1.0 - beta2) * g * g for v, g in zip(state["v"], grads, strict=True)]
        m_hat = [x / (1.0 - beta1 ** float(t)) for x in m]
        v_hat = [x / (1.0 - beta2 ** float(t)) for x in v]
        deltas = [-(self.alpha * (a / (b**0.5 + 1e-8))) for a, b in zip(m_hat, v_hat, strict=True)]
        return deltas, {"t": t, "m": m, "v": v}


class RawRmsprop(Strategy):
    """Its RMSprop: the root of alpha, a tanh-clamped decay, eps inside of the root."""

    alpha = real(0.1)
    gamma = real(float(gdtuo.RMSProp.unclamp(torch.tensor(0.99))))

    def init(self, point: Params) -> State:
        return {"s": [torch.zeros_like(p) for p in point]}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        gamma, alpha, grads = clamp(self.gamma), self.alpha * self.alpha, trials[0].grads or []
        s = [gamma * s.detach() + (1.0 - gamma) * torch.square(g) for s, g in zip(state["s"], grads, strict=True)]
        return [-(alpha * g / torch.sqrt(x + 1e-8)) for g, x in zip(grads, s, strict=True)], {"s": s}


RULES: dict[str, type[Strategy]] = {"sgd": RawSgd, "adam": RawAdam, "rmsprop": RawRmsprop}


def published(optimizer: Any, steps: int) -> list[float]:
    """The losses of the published tower on the same batches from the same start."""
    task = Published(seed=0)
    torch.manual_seed(0)
    model = task.model()
    wrapper = gdtuo.ModuleWrapper(model, optimizer=optimizer)
    wrapper.initialize()
    found = []
    for step in range(steps):
        wrapper.begin()
        loss = task.loss(model, task.batch(step))
        wrapper.zero_grad()
        loss.backward(create_graph=True)
        wrapper.step()
        found.append(float(loss.detach()))
    return found


def ours(stack: str, steps: int) -> list[float]:
    made = engines.engine(Published(seed=0), stack, {0: RAW}, rules=RULES, dtype=torch.get_default_dtype())
    assert {level.gradient for level in made.levels[1:]} <= {"online"}
    made.run(steps)
    return engines.losses(made)


@pytest.fixture
def closeness(request: pytest.FixtureRequest) -> Iterator[float]:
    """The largest relative difference in a default dtype: hyperparameters are float64 here, and of that dtype there."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield 1e-12 if request.param is torch.float64 else 1e-5
    torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
@pytest.mark.parametrize("closeness", [torch.float64, torch.float32], indirect=True)
@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_sgd_towers_equal_the_published_ones(height: int, closeness: float) -> None:
    rates = [0.05, 0.01, 1e-3, 1e-4][:height]
    optimizer: Any = gdtuo.NoOpOptimizer()
    for rate in reversed(rates):
        optimizer = gdtuo.SGD(rate, optimizer=optimizer)
    stack = "/".join(f"sgd(alpha={rate})" for rate in rates)
    assert ours(stack, 200) == pytest.approx(published(optimizer, 200), rel=closeness)


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
@pytest.mark.parametrize("closeness", [torch.float64, torch.float32], indirect=True)
@pytest.mark.parametrize("rule", ["adam", "rmsprop"])
def test_adaptive_towers_equal_the_published_ones(rule: str, closeness: float) -> None:
    above = gdtuo.SGD(1e-5)
    first = gdtuo.Adam(0.01, optimizer=above) if rule == "adam" else gdtuo.RMSProp(0.01, optimizer=above)
    alpha = 0.01 if rule == "adam" else float(torch.tensor(0.01).sqrt())
    decays = {k: float(v.detach()) for k, v in first.parameters.items() if k in ("beta1", "beta2", "gamma")}
    words = ", ".join(f"{k}={v!r}" for k, v in {"alpha": alpha, **decays}.items())
    found, expected = ours(f"{rule}({words})/sgd(alpha=1e-5)", 200), published(first, 200)
    assert found == pytest.approx(expected, rel=closeness)
    assert expected[-1] < expected[0] / 2
