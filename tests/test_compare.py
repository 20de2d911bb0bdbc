"""Comparisons: the same tasks for all, independent runs, honest tuning, and what is written down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import recopt
from recopt.comparison import (
    Trainer,
    carry_out,
    compare,
    make_compare_spec,
    read_compare_spec,
    report_seeds,
    tuning_seeds,
)
from recopt.comparison import runs as running
from recopt.comparison.competitors import Competitor
from recopt.comparison.plots import colour, dashes
from recopt.comparison.result import Entry, break_even
from recopt.comparison.runs import CAP, How, Runs, run_all, side_by_side
from recopt.comparison.tuning import RANGES, baseline, tune
from recopt.errors import RecoptError
from recopt.failures import RunFailed
from recopt.graph import Graph
from recopt.level import Level
from recopt.plan import plan_of
from recopt.stats import crossed_interval, crossed_paired
from recopt.strategy import Params, State, Strategy, Trial
from recopt.task import Batch, Split, Task
from recopt.tasks.quadratic import Quadratic
from recopt.tracking_runs import list_runs

FAST: dict[str, Any] = {"seeds": 6, "steps": 8, "tune": 3, "tune_tasks": 4, "track": False}


def graph(stack: str, task: str | Task = "quadratic", settings: tuple[str, ...] = ()) -> Graph:
    return plan_of(task, stack, settings=settings).graph


def runs_of(losses: list[list[float]], evaluations: float | None = None) -> Runs:
    found = np.array(losses)
    return Runs(found, {}, found.shape[1] - 1 if evaluations is None else evaluations, 0, 0.0, 0)


def entry(losses: list[list[float]], prepared: int | None = 0, evaluations: float | None = None) -> Entry:
    return Entry(Competitor("x", graph("sgd"), prepared=prepared), runs_of(losses, evaluations))


# runs


def test_runs_are_those_of_a_loop_written_out() -> None:
    task = plan_of("digits", "sgd").task
    seeds = [11, 12, 13]
    found = run_all("x", graph("adam(lr=0.01)", "digits"), task, seeds, How(5, dtype="float64"))
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
    task, made, how = Quadratic(dim=4), graph(stack), How(6, dtype="float64")
    together = run_all("x", made, task, range(100, 107), how)
    for size in (1, 3):
        monkeypatch.setattr(running, "_AT_ONCE", size)
        apart = run_all("x", made, task, range(100, 107), how)
        np.testing.assert_allclose(apart.losses, together.losses, rtol=1e-10)
        np.testing.assert_allclose(apart.test["loss"], together.test["loss"], rtol=1e-9)
        assert apart.evaluations == together.evaluations == 6


@pytest.mark.parametrize("stack", ["adam(lr=0.05)/hypergradient", "sgd/annealing", "annealing"])
def test_levels_above_tune_each_run_by_itself(stack: str) -> None:
    task, made, how = Quadratic(dim=4), graph(stack), How(12, dtype="float64")
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
    found = run_all("x", graph("sgd(lr=0.001)"), plan_of("mixture", "sgd").task, [1, 2, 3, 4], How(3))
    assert found.losses.shape == (4, 4) and np.isfinite(found.losses).all()
    assert len({row[0] for row in found.losses.tolist()}) == 4


def test_a_run_that_diverges_counts_with_capped_losses() -> None:
    found = run_all("x", graph("sgd(lr=100)", settings=("level1.guard=false",)), Quadratic(), [1, 2], How(40))
    assert not np.isfinite(found.losses[:, -1]).all() and found.diverged.all()
    first = found.losses[:, 0]
    np.testing.assert_allclose(found.capped[:, -1], CAP * first)
    np.testing.assert_allclose(found.measured["loss"], CAP * first)
    assert np.isfinite(found.score("sum")).all() and (found.score("sum") > 30 * CAP * first).all()


def test_divergence_is_what_it_says() -> None:
    found = runs_of([[1, 5, 0.5], [1, 5, 10.5], [1, math.nan, 0.5], [1, math.inf, 0.1], [1, 50, 9.9], [-1, -2, -3]])
    assert found.diverged.tolist() == [False, True, True, True, False, False]
    assert found.score("sum").tolist() == [6, 6, 101, 101, 51, -3]
    assert found.score("final").tolist() == [0.5, 10.5, 0.5, 0.1, 9.9, -3]


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
        run_all("x", graph("sgd"), made, [7, 8], How(2))


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
        run_all("x", broken, Quadratic(), [7, 8], How(2))
    with pytest.raises(RunFailed, match="^The task 'leans', run by 'x' from seed 7, failed .*with ValueError: no such"):
        run_all("x", graph("sgd"), Leans(), [7, 8], How(2))


def test_an_error_that_is_nobodys_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(running.Engine, "run", full)
    with pytest.raises(RunFailed, match=r"^The run of 'x' on tasks from seed 7 failed with OSError: .*No space left"):
        run_all("x", graph("sgd"), Quadratic(), [7, 8], How(2))


def test_a_failed_comparison_is_recorded_with_its_traceback(here: Path) -> None:
    text = "from recopt.tasks.quadratic import Quadratic\nclass Mine(Quadratic):\n    def loss(self, model, batch):\n"
    Path("mine.py").write_text(f"{text}        raise ValueError('no such thing')\n")
    with pytest.raises(RunFailed, match="The task 'mine', run by 'sgd' .*mine.py, line 4, with ValueError") as why:
        compare("mine.py", "sgd", baselines=[], output="out", **{**FAST, "track": True})
    kept = Path(str(why.value).partition("The traceback is in ")[2].removesuffix("."))
    assert "raise ValueError('no such thing')" in kept.read_text()
    (run,) = list_runs()
    assert (run.status, run.params["task"], run.folder) == ("FAILED", "mine.py", kept.parent)
    again = make_compare_spec(read_compare_spec(kept.parent / "comparison.yaml"))
    assert (again.task.name, [one.stack for one in again.stacks]) == ("mine.py", ["sgd"])
    assert not Path("out").exists()  # and no empty folder is left


# tuning


class Seen(Quadratic):
    """Notes the seeds of the tasks that are evaluated."""

    seeds: ClassVar[set[int]] = set()

    def batch(self, index: int, split: Split = "train") -> Batch:
        self.seeds.add(self.seed)
        return super().batch(index, split)


def test_nothing_is_tuned_on_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    whole = running.run_all

    def watched(name: str, made: Graph, task: Task, seeds: Any, how: How, **rest: Any) -> Runs:
        Seen.seeds.clear()
        found = whole(name, made, task, seeds, how, **rest)
        seen.append(set(Seen.seeds))
        return found

    monkeypatch.setattr("recopt.comparison.contest.run_all", watched)
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
    assert found["tuned sgd[lr]"].competitor.chosen["lr"] == pytest.approx(0.125, rel=0.05)
    assert found["tuned sgd[lr]"].competitor.prepared == 40 * 4 * 8


def test_all_baselines_have_the_same_number_of_trials() -> None:
    found = compare(Quadratic(dim=2), baselines=["sgd", "nesterov", "rmsprop", "adam", "adamw"], **FAST)
    assert {len(e.trials) for e in found.entries} == {3}
    assert {e.competitor.prepared for e in found.entries} == {3 * 4 * 8}
    assert set(found["tuned adamw"].competitor.chosen) == {"lr", "beta1", "beta2", "weight_decay", "schedule"}
    assert found["tuned nesterov"].competitor.chosen["nesterov"] is True
    assert found.reference == min(found.entries, key=lambda e: e.tuning_score).name


def test_both_schedules_are_tried_and_the_search_closes_in() -> None:
    base = baseline("adam")

    def score(rival: Competitor) -> float:
        far = abs(math.log(rival.chosen["lr"] / 0.3)) + abs(rival.chosen["beta1"] - 0.7)
        return far + (rival.chosen["schedule"] == "constant")

    found = tune(base, 60, 100, 0, score, 1)
    assert {trial.values["schedule"] for trial in found.trials[:4]} == {"constant", "cosine"}
    assert found.competitor.chosen["schedule"] == "cosine"
    assert found.competitor.graph.levels[0].horizon == 100
    assert found.competitor.chosen["lr"] == pytest.approx(0.3, rel=0.15)
    assert found.score == min(trial.score for trial in found.trials) < 0.2
    again = tune(base, 60, 100, 0, score, 1)
    assert [t.values for t in again.trials] == [t.values for t in found.trials]


def test_a_best_value_at_the_end_of_its_range_is_told() -> None:
    found = tune(baseline("sgd[lr]"), 30, 10, 0, lambda rival: -float(rival.chosen["lr"]), 1)
    assert found.competitor.notes == ("The best lr lies at an end of its range.",)


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


# figures


def test_break_even_is_the_preparation_over_what_a_task_saves() -> None:
    base = entry([[8, 4, 2, 1, 1.0]] * 3, prepared=100)
    fast = entry([[8, 1, 0.5, 0.2, 0.1]] * 3, prepared=1000)
    assert break_even(fast, base) == pytest.approx((1000 - 100) / (4 - 1))
    assert break_even(entry([[8, 1, 0.5, 0.2, 0.1]] * 3, prepared=50), base) == 0
    assert break_even(entry([[8, 4, 3, 2, 1.5]] * 3, prepared=1000), base) == math.inf
    # A loss that comes back up does not count; an evaluation that costs double counts double.
    assert break_even(entry([[8, 1, 5, 0.5, 0.5]] * 3, prepared=200), base) == pytest.approx(100 / (4 - 3))
    assert break_even(entry([[8, 1, 0.5, 0.2, 0.1]] * 3, prepared=1000, evaluations=8), base) == pytest.approx(450)
    assert break_even(entry([[8, 1, 0.5, 0.2, 0.1]] * 3, prepared=None), base) is None
    assert break_even(base, base) is None


def test_differences_are_task_by_task_against_the_best_baseline() -> None:
    found = compare("quadratic", ["sgd(lr=0.001)", "sgd(lr=0.01)"], baselines=["adam[lr]"], **{**FAST, "tune": 10})
    assert found.reference == "tuned adam[lr]"
    ours, theirs = found["sgd(lr=0.001)"].runs, found["tuned adam[lr]"].runs
    np.testing.assert_array_equal(ours.losses[:, 0], theirs.losses[:, 0])  # the same tasks and starts
    figures = {f.name: f for f in found.figures}
    difference = figures["sgd(lr=0.001)"].difference
    assert difference is not None
    assert difference.mean.value == pytest.approx((ours.score("sum") - theirs.score("sum")).mean())
    assert figures["tuned adam[lr]"].difference is None


def test_an_export_competes_with_its_trained_values(tmp_path: Path) -> None:
    from recopt.export import write_export

    result = recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=120, track=False,
                        settings=["level2.every=5", "level2.episode=20"])  # fmt: skip
    write_export(result.engine, result.spec, tmp_path / "mine")
    found = compare("quadratic(dim=3)", [str(tmp_path / "mine"), "lstm(hidden=4)"], baselines=["sgd[lr]"], **FAST)
    mine, fresh = found.entries[0], found.entries[1]
    assert mine.name == "mine" and mine.competitor.kind == "export"
    assert len(mine.competitor.graph.levels) == 1
    total = result.budget.total
    assert mine.competitor.prepared == total.loss + total.gradient >= 120
    assert not np.allclose(mine.runs.losses[:, 1:], fresh.runs.losses[:, 1:])
    assert "'lstm' starts untrained." in fresh.competitor.notes


def test_training_on_the_way_is_refused() -> None:
    with pytest.raises(RecoptError, match="level 2 starts afresh every 100 steps, and the comparison has 200"):
        compare("quadratic", "lstm/adam", baselines=[], **{**FAST, "steps": 200})


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(RecoptError, match="Two competitors are called 'adam'"):
        compare("quadratic", ["adam", "adam"], baselines=[], **FAST)


def test_known_sums_on_the_quadratics_are_reproduced() -> None:
    # Adam at its best constant rate sums to 107.2 on 4,000 instances, and with a cosine and tuned betas to 89.5.
    task, seeds = Quadratic(), range(1_000_000_000, 1_000_000_400)
    cosine = ("level1.schedule=cosine", "level1.horizon=100")
    constant = run_all("x", graph("adam(lr=0.2)"), task, seeds, How(100), test=False).score("sum")
    tuned = run_all("x", graph("adam(lr=0.3,beta1=0.7,beta2=0.95)", settings=cosine), task, seeds, How(100), test=False)
    for score, known in ((constant, 107.2), (tuned.score("sum"), 89.5)):
        assert abs(score.mean() - known) < 3 * score.std() / math.sqrt(len(score))


# contenders that are trained first

RUN: dict[str, Any] = {
    "task": "quadratic(dim=3)", "stack": "mlp-rule(hidden=3,width=3)/adam(lr=0.01)", "steps": 40, "tasks": 2,
    "measure": 0, "settings": ["level2.every=5", "level2.episode=20"], "choose": {"every": 20, "tasks": 4, "steps": 8},
}  # fmt: skip


def test_a_contender_with_a_run_is_trained_and_then_held_still() -> None:
    shown: list[tuple[str, int, int]] = []
    found = compare("quadratic(dim=3)", [{"run": RUN, "name": "mine"}], baselines=["sgd[lr]"], **FAST,
                    progress=lambda *what: shown.append(what))  # fmt: skip
    mine = found.entries[0]
    result = recopt.run("quadratic(dim=3)", RUN["stack"], steps=40, tasks=2, measure=0, settings=RUN["settings"],
                        choose=RUN["choose"], track=False)  # fmt: skip
    assert result.chosen is not None
    held = running.held_at(result.engine.levels, result.engine.graph.slots, result.chosen.values)
    again = run_all("x", held, plan_of("quadratic(dim=3)", "sgd").task, report_seeds(found.spec), How(8))
    np.testing.assert_array_equal(mine.runs.losses, again.losses)
    total = result.budget.total
    assert mine.competitor.prepared == total.loss + total.gradient + result.chosen.evaluations > 2 * 40
    assert mine.competitor.kind == "trained" and mine.competitor.notes == ()
    assert ("training mine", 40, 40) in shown
    assert next(f for f in found.figures if f.name == "mine").trainings == 1


def test_repeated_trainings_are_one_entry_with_the_spread_of_both() -> None:
    found = compare("quadratic(dim=3)", [{"run": RUN, "name": "mine", "repeat": 3}, "sgd(lr=0.01)"], baselines=[],
                    reference="sgd(lr=0.01)", **FAST)  # fmt: skip
    mine, figures = found["mine"], found.figures[0]
    assert [one.seed for one in mine.competitor.trainings] == [0, 1, 2] and figures.trainings == 3
    assert mine.runs.losses.shape == (3 * 6, 9) and mine.runs.evaluations == 8
    first = compare("quadratic(dim=3)", [{"run": {**RUN, "seed": 1}}], baselines=[], **FAST).entries[0]
    assert first.name == "mlp-rule(hidden=3, width=3)/adam(lr=0.01)"
    np.testing.assert_array_equal(mine.runs.losses[6:12], first.runs.losses)
    table = mine.runs.score("sum").reshape(3, 6)
    assert figures.score[0] == crossed_interval(table)
    reference = found["sgd(lr=0.01)"].runs.score("sum")
    assert figures.difference == crossed_paired(table, reference[None]) and found.figures[1].difference is None
    (note,) = found.notes
    assert note.startswith("mine: trained 3 times, with means ") and f"{table[2].mean():.4g} (seed 2)" in note
    assert mine.competitor.prepared == np.mean([one.evaluations for one in mine.competitor.trainings])


def test_contenders_trained_from_the_same_seeds_are_paired_by_them() -> None:
    other = {**RUN, "settings": [*RUN["settings"], "mlp_rule.nominal=0.5"]}
    runs = {"base": RUN, "one": other, "two": {**other, "seed": 1}}
    asked = [{"run": run, "name": name, "repeat": 2} for name, run in runs.items()]
    found = compare("quadratic(dim=3)", asked, baselines=[], reference="base", **FAST)
    base, one, two = (entry.runs.by_task(entry.runs.score("sum")) for entry in found.entries)
    np.testing.assert_array_equal(one[1], two[0])  # trained from seed 1
    _, matched, unmatched = (figures.difference for figures in found.figures)
    assert matched is not None and matched == crossed_paired(one, base, matched=True)
    assert matched.mean == pytest.approx(crossed_interval(one - base))
    assert unmatched == crossed_paired(two, base)
    assert matched.mean != crossed_paired(one, base).mean


def test_a_trainer_trains_each_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from recopt.session import Session

    seeds: list[int] = []
    whole = Session.run

    def watched(session: Session) -> Any:
        seeds.append(session.spec.seed)
        return whole(session)

    monkeypatch.setattr(Session, "run", watched)
    asked = [{"run": RUN, "name": "one", "repeat": 2}, {"run": RUN, "name": "same"}]
    spec = {"task": "quadratic(dim=3)", "stacks": asked, "baselines": [], "seeds": 4, "steps": 5}
    trainer = Trainer(track=False)
    one = carry_out(make_compare_spec(spec), track=False, trainer=trainer)
    np.testing.assert_array_equal(one["one"].runs.losses[:4], one["same"].runs.losses)
    other = carry_out(make_compare_spec({**spec, "task": "quadratic(dim=2)", "guards": True}), track=False,
                      trainer=trainer)  # fmt: skip
    assert seeds == [0, 1]
    assert [x.guard for e in (one, other) for x in e["one"].competitor.graph.levels] == [False, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": {**RUN, "step": 3}}, "In the run of 'x': there is no 'step'. Did you mean 'steps'?"),
        ({"run": {"task": "quadratic", "stack": "adam"}}, "In the run of 'x' nothing is trained: no level moves adam."),
        ({"run": {**RUN, "seed": 999_999_999}, "repeat": 2}, "In the run of 'x' seeds must be below 1,000,000,000"),
        ({"run": RUN, "settings": ["level3.every=2"]}, "There is no level3"),
        ({"run": RUN, "trained": 3}, "'stacks.0' has a run, which knows what its training takes"),
        ({"stack": "sgd", "repeat": 2}, "'stacks.0' has nothing to repeat"),
        ({}, "'stacks.0' needs a stack, or a run that trains one."),
        ({"run": "none.yaml"}, "The spec none.yaml cannot be read"),
        ({"run": 3}, "'stacks.0.run'"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_trained_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecoptError) as why:
        compare("quadratic", [{"name": "x", **change}], baselines=[], **FAST)
    assert said in str(why.value)


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(RecoptError, match="Unknown competitor 'sg' as the 'reference'. Did you mean 'sgd'?"):
        compare("quadratic", ["sgd"], baselines=[], reference="sg", **FAST)


def test_an_error_in_training_is_told_with_its_place_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from recopt.tasks.quadratic import Quadratic\nclass Broken(Quadratic):\n    def loss(self, model, batch):\n"
    (tmp_path / "broken.py").write_text(f"{text}        raise ValueError('no such thing')\n")
    with pytest.raises(RunFailed) as why:
        compare(
            "quadratic", [{"run": {**RUN, "task": "broken.py"}, "name": "x"}], baselines=[], **{**FAST, "track": True}
        )
    said = str(why.value)
    assert said.startswith("In the training of 'x': ") and "broken.py, line 4, with ValueError: no such thing" in said
    kept = Path(said.partition("The traceback is in ")[2].removesuffix("."))
    assert "no such thing" in kept.read_text()


def test_a_run_finds_the_plugins_of_the_comparison_too(tmp_path: Path) -> None:
    shipped = Path(__file__).parent.parent / "strategies" / "mlp_rule.py"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "my_rule.py").write_text(shipped.read_text().replace("class MlpRule", "class MyRule"))
    (tmp_path / "two" / "my_adam.py").write_text(
        (shipped.parent / "adam.py").read_text().replace("class Adam", "class MyAdam")
    )
    run = {**RUN, "stack": "my-rule(hidden=3)/my-adam(lr=0.01)", "plugins": [str(tmp_path / "one")]}
    found = compare("quadratic", [{"run": run}], baselines=[], **FAST, plugins=[tmp_path / "two"])
    assert found.entries[0].name == "my-rule(hidden=3)/my-adam(lr=0.01)"
    with pytest.raises(RecoptError, match="Plugins cannot be read from 'one'"):
        compare("quadratic", [{"run": {**RUN, "plugins": "one"}, "name": "x"}], baselines=[], **FAST)


def test_competitors_of_one_colour_differ_in_dashes() -> None:
    assert len({(colour(n), str(dashes(n))) for n in range(48)}) == 48
