"""The runs of a competitor: independent of each other, whatever shares an engine; and whose error it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import recopt
from recopt.contracts.strategy import Params, State, Strategy, Trial
from recopt.contracts.task import Batch
from recopt.levels.graph import Graph
from recopt.levels.level import Level
from recopt.running import repeats
from recopt.running.plan import plan
from recopt.running.repeats import CAP, RunSettings, run_all, side_by_side
from recopt.stacks.failures import RunFailed
from recopt.tasks.quadratic import Quadratic

from ..comparisons import graph, runs_of


def test_runs_are_those_of_a_loop_written_out() -> None:
    task = plan("digits", "sgd").task
    seeds = [11, 12, 13]
    found = run_all("x", graph("adam(lr=0.01)", "digits"), task, seeds, RunSettings(5, dtype="float64"))
    for n, seed in enumerate(seeds):
        own = task.sample(seed)
        torch.manual_seed(seed)
        model = own.model().double()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for index in range(6):
            x, y = own.batch(index)
            loss = own.loss(model, (x.double(), y))
            losses.append(float(loss.detach()))
            if index < 5:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        np.testing.assert_allclose(found.losses[n], losses, rtol=1e-9)
        with torch.no_grad():
            batches = [own.batch(index, "test") for index in range(own.batches("test"))]
            accuracy = np.mean([float(own.metrics(model, (x.double(), y))["accuracy"]) for x, y in batches])
        assert found.test["accuracy"][n] == pytest.approx(accuracy)
    assert found.evaluations == 5


@pytest.mark.parametrize("stack", ["sgd(lr=0.02,momentum=0.9)", "adam(lr=0.1)", "lstm"])
def test_runs_do_not_depend_on_which_are_side_by_side(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, made, how = Quadratic(dim=4), graph(stack), RunSettings(6, dtype="float64")
    together = run_all("x", made, task, range(100, 107), how)
    for size in (1, 3):
        monkeypatch.setattr(repeats, "_AT_ONCE", size)
        apart = run_all("x", made, task, range(100, 107), how)
        np.testing.assert_allclose(apart.losses, together.losses, rtol=1e-10)
        np.testing.assert_allclose(apart.test["loss"], together.test["loss"], rtol=1e-9)
        assert apart.evaluations == together.evaluations == 6


@pytest.mark.parametrize("stack", ["adam(lr=0.05)/hypergradient", "sgd/annealing", "annealing"])
def test_levels_above_tune_each_run_by_itself(stack: str) -> None:
    task, made, how = Quadratic(dim=4), graph(stack), RunSettings(12, dtype="float64")
    assert side_by_side(made, task, 5) == 1
    all_ = run_all("x", made, task, [3, 4, 5], how).losses
    for n, seed in enumerate([3, 4, 5]):
        alone = recopt.run("quadratic(dim=4)", stack, seed=seed, steps=12, dtype="float64", track=False)
        steps, losses = alone.history()
        if "annealing" not in stack:
            np.testing.assert_allclose(all_[n, :-1], losses, rtol=1e-12)
        np.testing.assert_allclose(all_[n, 0], losses[0], rtol=1e-12)
        assert len(steps) >= 12


def test_families_of_different_structure_run_one_at_a_time() -> None:
    found = run_all("x", graph("sgd(lr=0.001)"), plan("mixture", "sgd").task, [1, 2, 3, 4], RunSettings(3))
    assert found.losses.shape == (4, 4) and np.isfinite(found.losses).all()
    assert len({row[0] for row in found.losses.tolist()}) == 4


def test_a_run_that_diverges_counts_with_capped_losses() -> None:
    found = run_all("x", graph("sgd(lr=100)", settings=("level1.guard=false",)), Quadratic(), [1, 2], RunSettings(40))
    assert not np.isfinite(found.losses[:, -1]).all() and found.diverged.all()
    first = found.losses[:, 0]
    np.testing.assert_allclose(found.capped[:, -1], CAP * first)
    np.testing.assert_allclose(found.measured["loss"], CAP * first)
    assert np.isfinite(found.score("sum")).all() and (found.score("sum") > 30 * CAP * first).all()


def test_divergence_is_what_it_says() -> None:
    found = runs_of([[1, 5, 0.5], [1, 5, 10.5], [1, math.nan, 0.5], [1, math.inf, 0.1], [1, 50, 9.9], [-1, -2, -30]])
    # A loss in the middle that is no number may be a bad batch, which the guard skips.
    assert found.diverged.tolist() == [False, True, False, False, False, False]
    assert found.score("sum").tolist() == [6, 6, 101, 101, 51, -3]
    assert found.score("final").tolist() == [0.5, 10.5, 0.5, 0.1, 9.9, -30]


class Broken(Quadratic):
    """Fails where it is told to."""

    where = "loss"

    def __getattribute__(self, name: str) -> Any:
        if name == type(self).where:
            return self._fail
        return super().__getattribute__(name)

    def _fail(self, *given: Any) -> Any:
        raise ValueError("no such thing")


@pytest.mark.parametrize("where", ["model", "batch", "loss", "metrics", "sample"])
def test_a_failing_task_is_blamed_and_not_the_stack(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "where", where)
    made = Broken()
    with pytest.raises(RunFailed, match=r"^The task 'broken', run by 'x' from seed 7, failed.* with ValueError: no su"):
        run_all("x", graph("sgd"), made, [7, 8], RunSettings(2))


class Helper(torch.nn.Module):
    """A model, and a strategy, may fail in a module that is neither."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such thing")


class Leans(Quadratic):
    """Its loss fails in a module of its own."""

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return torch.as_tensor(Helper()(batch))


class Rule(Strategy):
    """A strategy that fails in a module of its own."""

    @torch.no_grad()
    def forward(
        self, point: Params, trials: Sequence[Trial], state: State, rng: torch.Generator
    ) -> tuple[Params, State]:
        return [Helper()(p) for p in point], state


def test_what_fails_in_a_module_is_blamed_on_whose_it_is() -> None:
    broken = Graph([Level(moves="task", by="rule")], {"rule": Rule()})
    with pytest.raises(RunFailed, match="^'x', on tasks from seed 7, failed .*with ValueError: no such thing"):
        run_all("x", broken, Quadratic(), [7, 8], RunSettings(2))
    with pytest.raises(RunFailed, match="^The task 'leans', run by 'x' from seed 7, failed .*with ValueError: no such"):
        run_all("x", graph("sgd"), Leans(), [7, 8], RunSettings(2))


class Sealed(Rule):
    """What it gives fails elsewhere: its layout cannot be added to a model's."""

    vectorize = False

    def forward(
        self, point: Params, trials: Sequence[Trial], state: State, rng: torch.Generator
    ) -> tuple[Params, State]:
        return [p.detach().to_mkldnn() for p in point], state


def test_what_ships_is_not_blamed_for_what_it_was_given() -> None:
    broken = Graph([Level(moves="task", by="rule")], {"rule": Sealed()})
    with pytest.raises(RunFailed, match="^The run of 'x' on tasks from seed 7 failed with RuntimeError"):
        run_all("x", broken, Quadratic(), [7, 8], RunSettings(2))


def test_an_error_that_is_nobodys_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repeats.Engine, "run", full)
    with pytest.raises(RunFailed, match=r"^The run of 'x' on tasks from seed 7 failed with OSError: .*No space left"):
        run_all("x", graph("sgd"), Quadratic(), [7, 8], RunSettings(2))
