"""Members of a population: each keeps its own run below the level, and takes another's where it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Generator

from recopt import Params, RecoptError, State, Strategy, Trial, option
from recopt.engine.engine import Engine

from .. import engines

RATES = (0.05, 0.02, 0.1)
EVERY = 5


class Herd(Strategy):
    """Three rates, in the order of ``plan``: by step, for each the trial that it goes on from, with its rate."""

    order: ClassVar[Any] = 0
    vectorize = False
    kind = option("keep", "keep: each its own; copy: the last goes on from the first; odd: a wrong answer")
    seen: ClassVar[list[list[float]]] = []

    def init(self, point: Params) -> State:
        return {"steps": 0}

    def ancestors(self, state: State) -> list[int]:
        if not state["steps"]:
            return []
        return {"keep": [0, 1, 2], "copy": [0, 1, 0], "odd": [0, 1, 7]}[self.kind]

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        return [[p.new_tensor(rate).log() for p in point] for rate in RATES]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        self.seen.append([float(t.loss) for t in trials if t.loss is not None])
        return [q - p for p, q in zip(point, trials[0].point, strict=True)], {"steps": state["steps"] + 1}


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    Herd.seen.clear()


def make(stack: str, settings: Any = None, **options: Any) -> Engine:
    return engines.engine(engines.Noisy(seed=2), stack, settings, rules={"herd": Herd}, seed=2, **options)


def scores(rates: Sequence[float], rule: str = "sgd(lr={}, momentum=0.9)") -> list[float]:
    """The mean loss of each window of a plain run, that has one rate in each."""
    made = make(rule.format(rates[0]))
    for rate in rates:
        slot: Any = made.state.slots["sgd"]
        made.tower.carriers.spaces["sgd"].put(slot, [0], [float(torch.tensor(rate, dtype=torch.float64).log())])
        for _ in range(EVERY):
            made.step()
    made.step()
    losses = engines.losses(made)
    return [sum(losses[n * EVERY + 1 : (n + 1) * EVERY + 1]) / EVERY for n in range(len(rates))]


def same(values: list[float]) -> Any:
    """``values`` up to the order in which a mean is summed."""
    return pytest.approx(values, rel=1e-13)


def run(kind: str, rounds: int, stack: str = "sgd(lr=0.05, momentum=0.9)/herd(kind={})[lr]") -> Engine:
    made = make(stack.format(kind), {2: {"every": EVERY}})
    while len(Herd.seen) < rounds:
        made.step()
    return made


def test_each_member_goes_exactly_where_it_would_go_alone() -> None:
    made = run("keep", 4)
    for member, rate in enumerate(RATES):
        assert [seen[member] for seen in Herd.seen] == same(scores([rate] * 4))
    made.flush()
    assert isinstance(made.sink, engines.Recorder)
    steps = made.sink.steps(0, "loss")
    assert steps == list(range(len(steps)))  # each step of the one that is shown once


def test_a_member_takes_the_whole_run_of_another() -> None:
    run("copy", 3)
    third = [seen[2] for seen in Herd.seen]
    first = scores([0.05, 0.05, 0.1])  # its last window follows two of the first's
    assert third[:1] == same(scores([0.1]))
    assert third[1:2] == same(scores([0.05, 0.1])[1:])
    assert third[2:] == same(first[2:])
    assert [seen[1] for seen in Herd.seen] == same(scores([0.02] * 3))


def test_levels_above_are_common_to_all_members() -> None:
    stack = "sgd(lr=0.05, momentum=0.9)/herd(kind=keep)[lr]+annealing[momentum]"
    made = make(stack, {2: {"every": EVERY}, 3: {"every": 7}})
    made.run(150)
    assert made.state.levels[1].steps > 3 and made.state.levels[2].steps > 3
    nested = make("sgd(lr=0.05)/pbt(population=3)/annealing", {2: {"every": 4}, 3: {"every": 2}})
    nested.run(80)
    nested.flush()
    assert isinstance(nested.sink, engines.Recorder)
    steps = nested.sink.steps(0, "loss")
    assert steps == list(range(len(steps)))
    assert nested.sink.steps(3, "meta_loss") == [8 * k for k in range(1, len(nested.sink.steps(3, "meta_loss")) + 1)]
    assert nested.state.levels[2].steps > 3


def test_evaluations_are_those_of_all_members() -> None:
    made = run("keep", 4)
    assert made.budget.levels[0].gradient == 1 + 4 * EVERY
    assert made.budget.levels[1].gradient == 4 * 2 * EVERY


def test_ancestors_that_do_not_exist_are_refused() -> None:
    with pytest.raises(RecoptError, match=r"'herd' gives \[0, 1, 7\] as ancestors of 3 points, after 3 trials"):
        run("odd", 2)
