"""Trials of a rule's hyperparameters, run side by side: as they are one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recopt.contracts import trees
from recopt.engine import checkpoint
from recopt.engine.engine import Engine
from recopt.engine.population import _Rows
from recopt.levels.packing import pack

from .. import engines
from .test_copies import Branching, Statistics

EVERY = 5
RULES = [
    "sgd", "sgd(momentum=0.9)", "sgd(momentum=0.9,nesterov=true,weight_decay=0.01)", "adam", "adam(weight_decay=0.01)",
    "adam(weight_decay=0.01,decoupled_weight_decay=false)", "rmsprop", "adagrad",
    "kesten",
]  # fmt: skip


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many trials each call has brought to their end, and how many it had."""
    found: list[int] = []
    ends = _Rows.ends

    def call(self: _Rows) -> Any:
        answer = ends(self)
        found.append(sum(end is not None for end in answer))
        return answer

    monkeypatch.setattr(_Rows, "ends", call)
    return found


def make(stack: str, task: Any = None, settings: Any = None, *, together: bool = True, **options: Any) -> Engine:
    made = engines.engine(
        task or engines.Regression(seed=2), stack, settings or {2: {"every": EVERY}}, seed=2, **options
    )
    if not together:
        made.trials.begins._together = None
    return made


def run(steps: int, stack: str, task: Any = None, settings: Any = None, **options: Any) -> Engine:
    """An engine after so many steps of the run, at the end of a trial or a window."""
    made = make(stack, task, settings, **options)
    while made.state.step < steps or any(own.search and own.search.scores for own in made.state.levels):
        made.step()
    return made


def same(one: Engine, other: Engine, atol: float = 1e-12) -> None:
    """All of both states, the record, and the accounts but for seconds are equal to rounding."""
    for made in (one, other):
        made.flush()
        for level in made.state.levels:  # what a drop of memory that is shared leaves
            level.stamp = []
    mine, theirs = trees.tensors(one.state), trees.tensors(other.state)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)
    assert _plain(one.state) == _plain(other.state)
    for a, b in zip(one.sink.points, other.sink.points, strict=True):  # type: ignore[union-attr]
        assert a[:2] == b[:2]
        assert {k: float(v) for k, v in a[2].items()} == pytest.approx(
            {k: float(v) for k, v in b[2].items()}, rel=1e-11, abs=1e-12
        )
    assert [(s.loss, s.gradient) for s in one.budget.levels] == [(s.loss, s.gradient) for s in other.budget.levels]


def _plain(tree: Any) -> Any:
    """What of a tree is no tensor, floats rounded."""

    def shown(node: Any) -> Any:
        if isinstance(node, float):
            return float(f"{node:.9g}")
        if isinstance(node, list):
            return [shown(x) for x in node]
        return {k: shown(v) for k, v in node.items() if k != "strides"} if isinstance(node, dict) else node

    return shown(pack(tree, {}))


@pytest.mark.parametrize("rule", RULES)
def test_a_population_runs_as_its_members_do_alone(rule: str, sizes: list[int]) -> None:
    stack = f"{rule}/pbt(population=6, reach=0)"
    together = run(4 * EVERY, stack)
    assert sizes and set(sizes) == {5}
    same(together, run(4 * EVERY, stack, together=False))


CASES: dict[str, tuple[str, Any, Any]] = {
    "batch statistics": ("sgd/pbt(population=6, reach=0)", Statistics(seed=2), None),
    "from one snapshot": ("sgd/cmaes(population=6)", None, None),
    "evolution": ("adam/evolution(population=4)", None, None),
    "windows of one step": ("sgd/pbt(population=6, reach=0)", None, {2: {"every": 1}}),
    "levels above": ("adam(lr=1e-4)/pbt(population=4, reach=0)/annealing", None, {2: {"every": 3}, 3: {"every": 2}}),
    "episodes": ("adam/pbt(population=6, reach=0)", None, {2: {"every": EVERY, "episode": 2 * EVERY}}),
    "the objective": ("sgd/pbt(population=6, reach=0)", None, {2: {"every": EVERY, "objective": "improvement"}}),
    "a penalty": ("sgd/pbt(population=6, reach=0)", None, {2: {"every": EVERY, "penalty_moved": 0.1}}),
    "no guard": ("sgd/pbt(population=6, reach=0)", None, {1: {"guard": False}, 2: {"every": EVERY}}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_does_so_whatever_the_level_is_told(case: str, sizes: list[int]) -> None:
    stack, task, settings = CASES[case]
    together = run(4 * EVERY, stack, task, settings)
    assert sizes and min(sizes) >= 3
    same(together, run(4 * EVERY, stack, task, settings, together=False))


@pytest.mark.parametrize(("rule", "windows"), [("sgd(lr=1.0)", 3), ("adam(lr=0.1)", 6)])
def test_a_trial_on_which_the_guard_acts_is_run_alone(rule: str, windows: int, sizes: list[int]) -> None:
    stack = f"{rule}/pbt(population=8, spread=3.0)"
    together = run(windows * EVERY, stack)
    assert any(0 < size < 7 for size in sizes)
    assert together.state.guard is not None
    alone = run(windows * EVERY, stack, together=False)
    alone.budget = together.budget  # what was run twice is paid for twice
    same(together, alone, 1e-9)  # until two members' scores differ by no more than rounding


REFUSED: dict[str, tuple[str, Any, Any]] = {
    "random": ("sgd/pbt(population=6)", engines.Noisy(seed=2), None),
    "held-out batches": ("sgd/pbt(population=6)", None, {2: {"every": EVERY, "on": "valid"}}),
    "a schedule": ("sgd/pbt(population=6)", None, {1: {"schedule": "cosine", "horizon": 40}, 2: {"every": EVERY}}),
    "a normalizer": ("sgd/pbt(population=6)", None, {1: {"normalize": "clip"}, 2: {"every": EVERY}}),
    "a mean of iterates": ("sgd/pbt(population=6)", None, {1: {"average": 8.0}, 2: {"every": EVERY}}),
    "a level that descends": ("sgd/hypergradient/pbt(population=6)", None, {3: {"every": EVERY}}),
    "a rule that keeps its point": ("schedule-free/pbt(population=6)", None, None),
    "a rule that sees whole tensors": ("muon/pbt(population=6)", None, None),
    "two trials": ("sgd/annealing", None, None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_trials_are_run_one_after_the_other(case: str, sizes: list[int]) -> None:
    stack, task, settings = REFUSED[case]
    together = run(3 * EVERY, stack, task, settings)
    assert not any(sizes)
    same(together, run(3 * EVERY, stack, task, settings, together=False))


def test_a_model_that_cannot_be_mapped_is_told_of(sizes: list[int]) -> None:
    with pytest.warns(UserWarning, match="scored one after the other, as the model cannot be mapped"):
        together = run(3 * EVERY, "sgd/pbt(population=6)", Branching(seed=2))
    assert not any(sizes)
    alone = run(3 * EVERY, "sgd/pbt(population=6)", Branching(seed=2), together=False)
    alone.budget = together.budget
    same(together, alone)


@pytest.mark.parametrize("steps", [EVERY + 1, 3 * EVERY + 2])
def test_a_run_goes_on_to_the_bit_from_a_checkpoint_in_a_window(steps: int, tmp_path: Path) -> None:
    stack = "sgd(lr=1.0)/pbt(population=8, spread=3.0)"
    made = make(stack)
    for _ in range(steps):
        made.step()
    checkpoint.save(made, tmp_path / "it")
    other = make(stack)
    checkpoint.load(other, tmp_path / "it")
    for _ in range(4 * EVERY):
        made.step()
        other.step()
    assert made.state.step == other.state.step
    for name, values in engines.everything(made).items():
        assert all(map(torch.equal, values, engines.params(other, name)))


def test_large_populations_are_run_in_groups(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr("recopt.engine.copies.MOST", 4)
    together = run(2 * EVERY, "adam/pbt(population=11)")
    assert set(sizes) == {4, 2}
    same(together, run(2 * EVERY, "adam/pbt(population=11)", together=False))
