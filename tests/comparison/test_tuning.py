"""Baselines: tuned honestly, on other tasks than those that are reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from recopt.checking.errors import RecoptError
from recopt.comparison import compare, make_compare_spec, report_seeds, tuning_seeds
from recopt.comparison.competitors import Competitor
from recopt.comparison.tuning import Baseline, baseline, tune
from recopt.contracts.task import Batch, Split
from recopt.running.task_runs import TaskRuns
from recopt.search.ranges import RANGES
from recopt.tasks.quadratic import Quadratic

from ..comparisons import FAST


def tuned(base: Baseline, trials: int, score: Callable[[Competitor], float]) -> Competitor:
    """``base`` after ``trials`` trials, scored by ``score``."""
    tuning = tune(base, trials, 100, 0, 1)
    settings = next(tuning)
    while True:
        try:
            settings = tuning.send([score(one) for one in settings])
        except StopIteration as end:
            found: Competitor = end.value
            return found


class Seen(Quadratic):
    """Notes the seeds of the tasks that are evaluated."""

    seeds: ClassVar[set[int]] = set()

    def batch(self, index: int, split: Split = "train") -> Batch:
        self.seeds.add(self.seed)
        return super().batch(index, split)


def test_nothing_is_tuned_on_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    whole = TaskRuns.run

    def watched(job: TaskRuns) -> dict[str, Any]:
        Seen.seeds.clear()
        found = whole(job)
        seen.append(set(Seen.seeds))
        return found

    monkeypatch.setattr(TaskRuns, "run", watched)
    found = compare(Seen(), "sgd", baselines=["sgd[lr]", "adam"], **FAST)
    tested, tuned = set(report_seeds(found.spec)), set(tuning_seeds(found.spec))
    assert not tested & tuned
    trials, reports = [s for s in seen if s & tuned], [s for s in seen if s & tested]
    assert len(trials) == 2 * 3 and all(s - {Seen().seed} == tuned for s in trials)
    assert len(reports) == 3 and all(s - {Seen().seed} == tested for s in reports)


def test_seeds_lie_where_they_are_said_to() -> None:
    for seed in (0, 1, 999):
        spec = make_compare_spec({"task": "quadratic", "seed": seed, "seeds": 1_000_000, "tune_tasks": 1_000_000})
        assert min(report_seeds(spec)) >= 10**9 and max(report_seeds(spec)) < 2 * 10**9
        assert min(tuning_seeds(spec)) >= 2 * 10**9 and max(tuning_seeds(spec)) < 3 * 10**9


def test_tuning_finds_the_best_rate_of_a_bowl() -> None:
    # Hessian 2·dim·I: the rate 1 / (2 dim) = 0.125 ends in one step.
    task = Quadratic(dim=4, conditioning=1.0)
    found = compare(task, baselines=["sgd[lr]"], **{**FAST, "tune": 40})
    assert found["tuned sgd[lr]"].competitor.hyperparameters["lr"] == pytest.approx(0.125, rel=0.05)
    assert found["tuned sgd[lr]"].competitor.prepared == 40 * 4 * 8


def test_all_baselines_have_the_same_number_of_trials() -> None:
    found = compare(Quadratic(dim=2), baselines=["sgd", "nesterov", "rmsprop", "adam", "adamw"], **FAST)
    assert {len(e.competitor.trials) for e in found.entries} == {3}
    assert {e.competitor.prepared for e in found.entries} == {3 * 4 * 8}
    assert set(found["tuned adamw"].competitor.hyperparameters) == {"lr", "beta1", "beta2", "weight_decay", "schedule"}
    assert found["tuned nesterov"].competitor.hyperparameters["nesterov"] is True
    assert found.reference == min(found.entries, key=lambda e: e.competitor.tuning_score).name


def test_both_schedules_are_tried_and_the_search_closes_in() -> None:
    base = baseline("adam")

    def score(one: Competitor) -> float:
        far = abs(math.log(one.hyperparameters["lr"] / 0.3)) + abs(one.hyperparameters["beta1"] - 0.7)
        return far + (one.hyperparameters["schedule"] == "constant")

    found = tuned(base, 60, score)
    assert {trial.values["schedule"] for trial in found.trials[:4]} == {"constant", "cosine"}
    assert found.hyperparameters["schedule"] == "cosine"
    assert found.graph.levels[0].horizon == 100
    assert found.hyperparameters["lr"] == pytest.approx(0.3, rel=0.15)
    assert found.tuning_score == min(trial.score for trial in found.trials) < 0.2
    again = tuned(base, 60, score)
    assert [t.values for t in again.trials] == [t.values for t in found.trials]


def test_a_best_value_at_the_end_of_its_range_is_told() -> None:
    found = tuned(baseline("sgd[lr]"), 30, lambda one: -float(one.hyperparameters["lr"]))
    assert found.notes == ("The best lr lies at an end of its range.",)


def test_baselines_in_words() -> None:
    assert baseline("adam").tuned == ("lr", "beta1", "beta2", "schedule")
    assert baseline("adam(beta1=0.8)").tuned == ("lr", "beta2", "schedule")
    fixed = baseline("adam(schedule=cosine)[lr]")
    assert fixed.tuned == ("lr",) and fixed.schedule == "cosine"
    assert fixed.competitor({"lr": 0.1}, 7, False).graph.levels[0].horizon == 7
    assert baseline("adagrad").tuned == ("lr", "schedule")
    assert RANGES["beta2"].value(1.0) == 0.5 and RANGES["lr"].value(0.0) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adm", "Unknown strategy 'adm' in baseline 'adm'. Did you mean 'adam'?"),
        ("adam[lrr]", "Unknown hyperparameter 'lrr' to tune in baseline 'adam[lrr]'. Did you mean 'lr'?"),
        ("adam(beta3=1)", "Unknown option 'beta3' of adam."),
        ("adam(schedule=cosin)", "Unknown schedule 'cosin' in baseline 'adam(schedule=cosin)'. Did you mean 'cosine'?"),
        ("adam/sgd", "'adam/sgd' should name one baseline"),
        ("lstm", "'lstm' cannot be tuned as a baseline: give it as a stack."),
        ("annealing", "'annealing' cannot be tuned as a baseline"),
        ("sgd(lr=0.1,schedule=cosine)", "Nothing is left to tune"),
    ],
)
def test_a_baseline_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecoptError) as why:
        baseline(text)
    assert said in str(why.value)
