"""The record of a run as a person browses it: sections, constants, names and descriptions."""

from __future__ import annotations

from pathlib import Path

import pytest

import recopt
from recopt.tracking.mlflow.store import Store, open_store

SUMMARY = {"final_loss", "best_loss", "evaluations", "seconds", "diverged", "frozen"}


@pytest.fixture
def run(here: Path, empty_store: Path) -> recopt.Result:
    (here / "runs").mkdir()
    (here / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    return recopt.run("quadratic", "adam(lr=0.01)/hypergradient/annealing", steps=150, seed=3)


def points(store: Store, run: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in store.client.get_metric_history(run, key))


def test_a_run_has_the_curves_of_its_levels_in_sections_and_no_constant_is_a_curve(run: recopt.Result) -> None:
    store = open_store()
    assert run.run_id is not None
    found = store.run(run.run_id).data
    nested = {
        int(child.data.tags["recopt.level"]): child
        for child in store.client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    }
    assert [nested[n].info.run_name for n in (1, 2, 3)] == [
        "level 1: adam",
        "level 2: hypergradient",
        "level 3: annealing",
    ]
    for number, level in nested.items():
        assert level.data.metrics.keys() == {
            key.removeprefix(f"level{number}/") for key in found.metrics if key.startswith(f"level{number}/")
        }
        for key in level.data.metrics:
            assert points(store, level.info.run_id, key) == points(store, run.run_id, f"level{number}/{key}")
    steps, values = run.history("lr", 1)
    assert points(store, run.run_id, "level1/lr") == list(zip(steps.tolist(), values.tolist(), strict=True))
    assert {"beta1", "beta2", "eps", "temperature"}.isdisjoint(key.rpartition("/")[2] for key in found.metrics)
    assert (nested[1].data.params["start.lr"], nested[1].data.params["start.beta1"]) == ("0.01", "0.9")
    assert nested[1].data.tags["gradient_evaluations"] == "150"
    own = {key for key in found.metrics if "/" not in key and not key.startswith("valid_")}
    assert {key for key in own if len(points(store, run.run_id, key)) == 1} == SUMMARY


def test_a_run_has_the_params_it_is_compared_by_and_says_what_it_is(run: recopt.Result) -> None:
    assert run.run_id is not None
    found = open_store().run(run.run_id).data
    assert found.params == {
        "task": "quadratic", "stack": run.stack, "steps": "150", "seed": "3", "tasks": "1", "device": "cpu",
        "dtype": "float32", "threads": "1", "adam.lr": "0.01",
    }  # fmt: skip
    said = found.tags["mlflow.note.content"]
    assert said.startswith(f"Trains **quadratic** for 150 steps with the stack `{run.stack}`, seed 3. ")
    for line in ("1. `adam` moves the parameters of the task's model.", "2. `hypergradient` moves lr of `adam`.",
                 "3. `annealing` moves kappa of `hypergradient`."):  # fmt: skip
        assert line in said


def test_a_hyperparameter_and_a_figure_of_its_level_are_not_recorded_as_one() -> None:
    found = recopt.run(
        "quadratic", "adam/random-search(population=3)", steps=30, settings=["level2.every=5"], track=False
    )
    assert set(found.history("spread", 2)[1].round(5)) == {2.3}
    assert len(set(found.history("score_spread", 2)[1])) > 1


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_run_records_what_a_rule_tells_of_its_state(here: Path, tasks: int) -> None:
    found = recopt.run("sinusoid", "paced(steps=100)", steps=60, tasks=tasks, track=False)
    steps, rates = found.history("paced.rate", 1)
    assert steps.tolist() == list(range(0, 60, 10))
    shares = [min((step + 1) / 5, 1, (100 - step) / 50) for step in steps]  # of a rate that is the same in all steps
    assert rates / shares == pytest.approx([rates[0] / shares[0]] * 6, rel=0.5)
    assert rates[0] < rates[1]
