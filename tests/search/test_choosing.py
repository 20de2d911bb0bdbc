"""Zero-order levels that move themselves: by factors of a fixed size, judged by what the new values did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from torch import Generator

import recopt
from recopt import Params, State, Strategy, Trial, positive
from recopt.levels.completion import usual
from recopt.stacks.plugins import load_strategy

from .. import engines


class Best(Strategy):
    """Proposes the point and one a step away in each direction, and takes the best."""

    order: ClassVar[Any] = 0
    vectorize = False
    step = positive(0.5, "distance of the others")
    told: ClassVar[list[tuple[float, list[float], list[float]]]] = []

    def init(self, point: Params) -> State:
        return {}

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        return [point, *([p + s * self.step for p in point] for s in (1.0, -1.0))]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        losses, places = [float(t.loss) for t in trials if t.loss is not None], [float(t.point[0]) for t in trials]
        self.told.append((float(self.step), places, losses))
        return [q - p for p, q in zip(point, trials[int(np.argmin(losses))].point, strict=True)], {}


@pytest.mark.parametrize("start", [1e-4, 2.0])
def test_a_search_moves_its_own_step_by_fixed_factors_and_is_told_what_the_new_step_found(start: float) -> None:
    Best.told.clear()
    settings = {2: {"every": 3}, 3: {"every": 1}}
    made = engines.engine(
        engines.Noisy(seed=2), f"sgd(lr=1e-3)/best(step={start})/self", settings, rules={"best": Best}, seed=2
    )
    made.run(9)
    *below, own = Best.told[:4]
    assert own[0] == pytest.approx(0.5) and own[1] == pytest.approx([math.log(start) + s for s in (0, 0.5, -0.5)])
    for (step, places, losses), factor, score in zip(below, (0, 0.5, -0.5), own[2], strict=True):
        assert step == pytest.approx(start * math.exp(factor))
        assert places == pytest.approx([math.log(1e-3) + s * step for s in (0, 1, -1)])
        assert min(losses) == pytest.approx(score)


def test_only_the_smooth_hyperparameters_of_nobodys_own_domain_are_at_their_defaults() -> None:
    annealing = load_strategy("annealing")
    assert set(usual(annealing(step=1e-4))) == {"temperature", "cooling", "step", "target", "adaptation"}
    assert usual(annealing(step=1e-4, restart=0.1)) == usual(annealing())
    assert "step" not in usual(annealing(step=0.3, domains={"step": "unit"}))


@pytest.mark.parametrize("rule", ["annealing", "evolution"])
def test_a_search_that_moves_itself_gets_away_from_a_step_that_is_far_too_small(rule: str) -> None:
    settings = ["level2.every=2"]
    found = recopt.run("quadratic", f"{rule}(step=1e-4)/self", steps=100, settings=settings, seed=3, track=False)
    assert max(found.history("step", 1)[1]) > 30e-4
