"""Tasks side by side against separate runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from recopt.contracts.settings import positive
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Task
from recopt.engine.engine import Engine

from .. import engines


class Plain(Strategy):
    """A rule with state, which can be mapped or looped over tasks."""

    lr = positive(0.05)

    def init(self, point: Params) -> State:
        return {"m": [torch.zeros_like(p) for p in point], "t": 0}

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        m = [0.5 * m + g for m, g in zip(state["m"], trials[0].grads or [], strict=True)]
        return [-self.lr * x for x in m], {"m": m, "t": state["t"] + 1}


class Looped(Plain):
    """The same, looped over."""

    vectorize = False


class Alone(engines.Regression):
    """Looped over."""

    vectorize = False


RULES: dict[str, type[Strategy]] = {"plain": Plain, "looped": Looped}


def alone(seed: int, stack: str, settings: engines.Settings | None = None, steps: int = 12) -> Engine:
    made = engines.engine(engines.Regression(seed=seed), stack, settings, rules=RULES, seed=seed)
    made.run(steps)
    return made


@pytest.mark.parametrize("family", [engines.Regression, Alone])
@pytest.mark.parametrize("stack", ["sgd(lr=0.1, momentum=0.9)", "adam(lr=0.02)", "plain", "looped", "rmsprop", "lstm"])
def test_tasks_side_by_side_equal_separate_runs(stack: str, family: type[Task]) -> None:
    slots = engines.graph(stack, rules=RULES).slots
    made = engines.engine(family(seed=7), stack, rules=RULES, seed=7, tasks=3)
    made.run(12)
    assert list(made.graph.slots) == list(slots)
    for n, one in enumerate(made.family.drawn(0).tasks):
        single = engines.engine(engines.Regression(seed=one.seed), stack, rules=RULES, seed=one.seed)
        single.run(12)
        for a, b in zip(engines.params(made), engines.params(single), strict=True):
            torch.testing.assert_close(a[n], b, rtol=1e-10, atol=1e-13)


def test_batch_statistics_of_tasks_side_by_side_equal_separate_runs() -> None:
    class Normed(engines.Regression):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))

    made = engines.engine(Normed(seed=7), "adam(lr=0.02)/sgd", {2: {"every": 2, "gradient": "unroll"}}, seed=7, tasks=2)
    made.run(9)
    base = engines.engine(Normed(seed=7), "adam(lr=0.02)", seed=7, tasks=2)
    base.run(9)
    for n, one in enumerate(base.family.drawn(0).tasks):
        single = engines.engine(Normed(seed=one.seed), "adam(lr=0.02)", seed=one.seed)
        single.run(9)
        for a, b in zip(base.state.slots["task"].buffers, single.state.slots["task"].buffers, strict=True):
            torch.testing.assert_close(a[n], b, rtol=1e-10, atol=1e-13)
    assert [b.shape[0] for b in made.state.slots["task"].buffers] == [2, 2, 2]


def test_the_hypergradient_over_tasks_is_the_mean_of_separate_ones() -> None:
    settings = {2: {"gradient": "unroll", "second_order": True, "every": 3, "normalize": "none"}}

    def first(made: Engine) -> Tensor:
        found: list[Tensor] = []
        deliver = made.tower.up._deliver

        def spy(state: Any, number: int, signal: Any) -> None:
            if signal is not None:
                found.append(signal.grads[0].clone())
            deliver(state, number, signal)

        made.tower.up._deliver = spy  # type: ignore[method-assign]
        made.run(4)
        return found[0]

    made = engines.engine(engines.Regression(seed=7), "plain/sgd", settings, rules=RULES, seed=7, tasks=3)
    seeds = [t.seed for t in made.family.drawn(0).tasks]
    singles = [
        first(engines.engine(engines.Regression(seed=s), "plain/sgd", settings, rules=RULES, seed=s)) for s in seeds
    ]
    torch.testing.assert_close(first(made), torch.stack(singles).mean(0), rtol=1e-11, atol=0)
