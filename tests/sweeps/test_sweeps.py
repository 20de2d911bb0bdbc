"""Sweeps from Python: what is tried, what it scores, what is recorded, and what is refused beforehand."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import recopt
from recopt.checking.errors import Notice, RecoptError
from recopt.stacks.plugins import list_strategies, load_strategy
from recopt.sweeps import make_sweep_spec, plan_sweep
from recopt.tracking.mlflow.children import NUMBER
from recopt.tracking.mlflow.runs import list_runs
from recopt.tracking.mlflow.store import open_store
from recopt.tracking.mlflow.ui import page_of

from .plugins import data, swept

QUICK: dict[str, Any] = {"steps": 6, "measure": 0, "track": False}
ZERO_ORDER = {one.name: load_strategy(one.name) for one in list_strategies() if load_strategy(one.name).order == 0}
SEARCHES = [name for name, kind in ZERO_ORDER.items() if name != "replay" and not kind.paired]
GRID: dict[str, Any] = {"over": {"sgd.lr": "1e-3..1e-1 in 3"}, "by": "grid", **QUICK}


def test_every_trial_is_the_run_of_its_settings() -> None:
    found = recopt.sweep("digits", "sgd", score="accuracy", **GRID)
    assert [one.settings for one in found.trials] == [{"sgd.lr": 1e-3}, {"sgd.lr": 1e-2}, {"sgd.lr": 1e-1}]
    for one in found.trials:
        run = recopt.run("digits", "sgd", settings=[f"sgd.lr={one.settings['sgd.lr']}"], **QUICK)
        assert one.test == run.after and one.hyperparameters == run.hyperparameters and one.step == 6
    assert found.best is max(found.trials, key=lambda one: one.score) is found.ranked[0]
    assert found.plan.sign == -1 and (found.made, found.whole) == (18, 18)


def test_repeats_have_seeds_of_their_own_and_the_score_is_their_mean() -> None:
    three = recopt.sweep("quadratic", "sgd", repeat=3, seed=5, **GRID)
    alone = [recopt.sweep("quadratic", "sgd", seed=seed, **GRID) for seed in (5, 6, 7)]
    for n, one in enumerate(three.trials):
        scores = [other.trials[n].score for other in alone]
        assert one.score == pytest.approx(sum(scores) / 3, rel=1e-12) and one.spread > 0
        assert len(set(scores)) == 3
    assert three.made == 3 * 3 * 6 and math.isnan(alone[0].trials[0].spread)


@pytest.mark.parametrize("over", ["1e-3..1", [0.1, 0.2]])
def test_a_value_of_the_stack_that_no_trial_has_is_told_of(over: Any) -> None:
    asked = lambda stack: make_sweep_spec({"task": "quadratic", "stack": stack, "over": {"sgd.lr": over}})  # noqa: E731
    with pytest.warns(Notice, match=r"'sgd\.lr' is 5 in the stack, and no trial has that, since the sweep goes over"):
        plan_sweep(asked("sgd(lr=5)"))
    plan_sweep(asked("sgd(lr=0.1)"))
    plan_sweep(asked("sgd"))
    plan_sweep(asked("adam/sgd"))  # whose rate there is a default


def test_settings_of_a_strategy_go_with_the_stacks_that_have_it() -> None:
    found = recopt.sweep("quadratic", over={"stack": ["sgd", "adam", "sgd/hypergradient"], "sgd.lr": [1e-5, 2e-5],
                         "adam.beta1": [0.5, 0.9], "level2.every": [1, 2]}, by="grid", **QUICK)  # fmt: skip
    assert [one.settings for one in found.trials] == [
        {"stack": "sgd", "sgd.lr": 1e-5}, {"stack": "sgd", "sgd.lr": 2e-5}, {"stack": "adam", "adam.beta1": 0.5},
        {"stack": "adam", "adam.beta1": 0.9}, *({"stack": "sgd/hypergradient", "sgd.lr": lr, "level2.every": every}
                                               for lr in (1e-5, 2e-5) for every in (1, 2)),
    ]  # fmt: skip
    assert len({one.score for one in found.trials}) == 8


def test_stacks_may_be_lists_of_names() -> None:
    listed = recopt.sweep("quadratic", ["sgd", "hypergradient"], **GRID)
    words = recopt.sweep("quadratic", "sgd/hypergradient", **GRID)
    assert [one.score for one in listed.trials] == [one.score for one in words.trials]
    over = {"stack": [["sgd", "hypergradient"], "sgd"]}
    found = recopt.sweep("quadratic", over=over, by="grid", **QUICK)
    assert [one.settings["stack"] for one in found.trials] == ["sgd/hypergradient", "sgd"]
    with pytest.raises(RecoptError, match="takes its stack in words"):
        recopt.sweep("quadratic", over={"stack": [[load_strategy("sgd")()]]}, by="grid", **QUICK)


def test_a_strategy_searches_and_what_it_has_tried_is_not_run_again() -> None:
    found = recopt.sweep("quadratic(dim=4, conditioning=1.0)", "sgd", over=["sgd.lr"], by="annealing(step=3.0)",
                         trials=25, **QUICK)  # fmt: skip
    values = [one.settings["sgd.lr"] for one in found.trials]
    assert len(set(values)) == len(values) and 24 <= len(values) <= 25 and found.made == 6 * len(values)
    assert found.best.score < 0.7 * found.trials[0].score


@pytest.mark.parametrize("name", SEARCHES)
def test_every_zero_order_strategy_searches(name: str) -> None:
    over, middle = ["sgd.lr", "sgd.momentum"], {"sgd.lr": [0.01], "sgd.momentum": [0.954174]}
    found = recopt.sweep("quadratic(dim=2)", "sgd", over=over, by=name, trials=24, **QUICK)
    start = recopt.sweep("quadratic(dim=2)", "sgd", over=middle, by="grid", **QUICK)
    # The first is the middle, or drawn around it, or the first round of the middle.
    assert 8 <= len(found.trials) <= 24 and found.best.score < max(found.trials[0].score, start.best.score)


def test_optunas_samplers_search_rates_whole_numbers_and_choices_together() -> None:
    over = {"sgd.lr": "1e-3..1e-1", "level2.every": "1..6", "level1.normalize": ["none", "rms"]}
    found = recopt.sweep("quadratic(dim=2)", "sgd/annealing", over=over, by="optuna(population=3)", trials=12, **QUICK)
    seen = [{one.settings[name] for one in found.trials} for name in over]
    assert len(seen[0]) > 5 and len(seen[1]) > 2 and all(isinstance(x, int) for x in seen[1])
    assert seen[2] == {"none", "rms"}


def test_halving_stops_trials_and_says_what_it_saved() -> None:
    over = {"sgd.lr": "1e-4..1e-1"}
    found = recopt.sweep("quadratic", "sgd", over=over, trials=9, asha="eta=3,first=3", **{**QUICK, "steps": 27})
    whole = recopt.sweep("quadratic", "sgd", over=over, trials=9, **{**QUICK, "steps": 27})
    steps = sorted(one.step for one in found.trials)
    assert set(steps) == {3, 9, 27} and steps.count(3) >= 5
    assert found.made == sum(steps) and found.whole == 9 * 27 and found.saved == pytest.approx(1 - sum(steps) / 243)
    same = next(one for one in whole.trials if one.number == found.best.number)
    assert found.best.score == same.score  # what was paused goes on to the bit
    assert found.best.outcome == "finished" and {one.outcome for one in found.ranked[3:]} == {"stopped"}
    assert [step for step, _ in found.best.curve] == [3, 9, 27]


def test_a_trial_that_fails_is_told_and_the_rest_goes_on(here: Path) -> None:
    found = swept(data(over={"level1.only": [["weight"], ["no such"]]}, by="grid", trials=None))
    well, bad = found.trials
    assert well.outcome == "finished" and bad.outcome == "failed" and found.failed == [bad]
    assert bad.reason and math.isnan(bad.score) and found.ranked == [well, bad]


def test_a_sweep_is_one_run_with_a_nested_run_for_each_trial(here: Path, empty_store: Path) -> None:
    Path("runs").mkdir()
    shutil.copy(empty_store, "runs")
    found = recopt.sweep("digits", "sgd", score="accuracy", name="mine", **{**GRID, "track": True})
    (row,) = list_runs(None, 5)
    assert (row.id, row.name, row.status) == (found.run_id, "mine", "FINISHED")
    assert row.metrics["best_score"] == pytest.approx(found.best.score) and row.metrics["trials"] == 3
    assert row.params["over.sgd.lr"] == "1e-3..1e-1 in 3" and row.tags["recopt.kind"] == "sweep"
    store = open_store()
    nested = store.client.search_runs([row.experiment], f"tags.`{NUMBER}` != '0'", order_by=["attributes.start_time"])
    assert [run.data.params["sgd.lr"] for run in nested] == ["0.001", "0.01", "0.1"]
    for run, one in zip(nested, found.trials, strict=True):
        assert run.data.metrics["score"] == pytest.approx(one.score) and run.info.status == "FINISHED"
        assert run.data.metrics["test_accuracy"] == pytest.approx(one.test["accuracy"])
        assert run.info.end_time >= run.info.start_time
    page = page_of(store, None, "mine", store.root)
    tags = store.client.get_experiment(row.experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{page.rpartition('=')[2]}"])
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    listed = store.client.search_runs([row.experiment], view["searchFilter"], order_by=[order])
    assert [run.data.metrics["score"] for run in listed] == [one.score for one in found.ranked]
    assert {"metrics.`score`", "metrics.`test_accuracy`", "params.`sgd.lr`"} <= set(view["selectedColumns"])
    again = {"run": row.id, "child": 1, "name": "trial 1", "params": {}, "metrics": {"score": 9.0}, "step": 6,
             "status": "FINISHED", "note": "", "time": 0}  # fmt: skip
    store.take(again)  # it has this step
    assert len(store.client.get_metric_history(nested[0].info.run_id, "score")) == 1


def test_its_folder_has_the_tables_the_picture_and_the_best_run(here: Path) -> None:
    found = recopt.sweep("quadratic", "sgd", output=here / "out", **GRID)
    rows = list(csv.DictReader((here / "out/trials.csv").read_text().splitlines()))
    assert [float(row["score"]) for row in rows] == [one.score for one in found.trials]
    told = json.loads((here / "out/sweep.json").read_text())
    assert told["best"] == found.best.number and len(told["trials"]) == 3
    assert (here / "out/sweep.png").stat().st_size > 10_000
    from recopt.running.plan import replan
    from recopt.running.session import RunOptions, Session
    from recopt.running.spec import read_spec

    best = Session(replan(read_spec(here / "out/best.yaml")), RunOptions(track=False)).run()
    assert best.after == found.best.test
    again = yaml.safe_load((here / "out/sweep.yaml").read_text())
    assert make_sweep_spec(again) == found.plan.spec
    assert "3 trials by grid" in repr(found) and "<pre>" in found._repr_html_()


BASE: dict[str, Any] = {"task": "digits", "stack": "adam/hypergradient", "steps": 9, "over": {"adam.lr": "1e-4..1"}}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"over": None}, "nothing to search over"),
    "slot": ({"over": {"adm.lr": [1]}}, "Unknown name 'adm' in 'adm.lr'. Did you mean 'adam'?"),
    "key": ({"over": {"adam.rate": [1]}}, "Unknown option 'rate' of adam"),
    "level": ({"over": {"level3.every": [1]}}, "There is no level3"),
    "field": ({"over": {"step": [1]}}, "Unknown setting 'step' in 'over'. Did you mean 'steps'?"),
    "domain": ({"over": {"adam.lr": "-1..1"}}, "adam.lr must be a number above 0, not -1"),
    "choice": ({"over": {"stack": ["adam", "adm"]}}, "Unknown strategy 'adm'"),
    "range of depths": ({"over": {"depth": "1..3"}}, "searched over a list"),
    "by": ({"by": "anealing"}, "Unknown strategy 'anealing' in 'by' .grid and random too.. Did you mean 'annealing'?"),
    "by a gate": ({"by": "gate"}, "grid, random or a zero-order strategy, like annealing, not 'gate'"),
    "by gradients": ({"by": "adam"}, "grid, random or a zero-order strategy, like annealing, not 'adam'"),
    "grid of a range": ({"by": "grid"}, "say how many 'adam.lr' has, like LOW..HIGH in 5"),
    "grid and trials": ({"by": "grid", "trials": 3, "over": {"adam.lr": [1]}}, "leave 'trials' out"),
    "few trials": ({"by": "annealing", "trials": 1}, "more than 1 settings at its first step"),
    "score": ({"score": "acuracy"}, "Unknown score 'acuracy'. Did you mean 'accuracy'?"),
    "no choice": ({"score": "choose_score"}, "Unknown score 'choose_score'"),
    "asha": ({"asha": "eta"}, "'asha' should read like eta=3, first=50, not 'eta'"),
    "asha key": ({"asha": {"etta": 3}}, "no 'asha.etta'. Did you mean 'eta'?"),
    "asha rungs": ({"asha": {"first": 9}}, "its 'first' should be 3 of 9 steps at most"),
    "asha steps": ({"asha": {}, "over": {"steps": [3, 9]}}, "leave 'steps' out of 'over'"),
    "asha strategy": ({"asha": {}, "by": "annealing"}, "not by 'annealing'"),
    "unknown": ({"trails": 3}, "Unknown key 'trails' in the spec. Did you mean 'trials'?"),
    "over misspelt": ({"over": None, "ovr": {"adam.lr": "1e-4..1"}}, "key .ovr. in the spec. Did you mean .over."),
    "trials": ({"trials": 0}, "'trials' "),
    "comparison": ({"baselines": []}, "belongs to a comparison, not to a sweep"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_work_is_refused_before_anything_runs(mistake: str) -> None:
    given, words = MISTAKES[mistake]
    with pytest.raises(RecoptError, match=words) as told:
        plan_sweep(make_sweep_spec({**BASE, **given}))
    assert "\n" not in str(told.value)


def test_the_spec_of_a_sweep_is_told_from_that_of_a_run() -> None:
    from recopt.running.plan import replan

    with pytest.raises(RecoptError, match="'over' belongs to a sweep, not to a run: give the file to 'recopt sweep'"):
        replan(BASE)
