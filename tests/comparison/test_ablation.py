"""Ablations: verdicts where the answer is known, equal budgets, refusals, and going on after a stop."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recopt
from recopt.checking.errors import RecoptError
from recopt.comparison import Stopped
from recopt.comparison.ablate import resumed_ablation, run_ablation
from recopt.comparison.ablate_spec import make_ablate_spec
from recopt.comparison.ablation import Ablation, break_even
from recopt.comparison.competitors import Competitor
from recopt.comparison.figures import Entry
from recopt.tracking.mlflow.runs import list_runs

from ..commands import Recopt
from ..comparisons import graph, runs_of
from .test_goes_on import Stops

SMALL: dict[str, Any] = {"steps": 40, "seeds": 5, "track": False}


def made(below: Any, above: Any, *scaled: Any) -> Ablation:
    """An ablation of two levels, whose runs have these scores, by seed; each run is one loss.

    ``scaled`` are those from wrong start values: of level 1 without level 2, with it, and of level 2.
    """
    data = {"task": "quadratic", "stack": "sgd/sgd", "seeds": len(below), "scales": [10.0] if scaled else []}
    spec = make_ablate_spec(data)
    scores = [below, scaled[0], above, *scaled[1:]] if scaled else [below, above]
    return Ablation(spec, [
        Entry(Competitor(str(one.name), graph("sgd")), runs_of([[float(x), float(x)] for x in values]))
        for one, values in zip(spec.stacks, scores, strict=True)
    ], str(spec.stacks[0].name))  # fmt: skip


def test_a_level_that_finds_the_rate_pays_and_one_that_moves_nothing_does_not() -> None:
    found = recopt.ablate("quadratic", "sgd(lr=1e-4)/hypergradient/sgd(lr=1e-13)", **SMALL)
    first, second, third = found.levels
    assert (first.verdict, second.verdict, third.verdict) == ("", "pays", "no difference shown")
    assert second.gain is not None and second.gain.low > 0.05
    assert third.gain is not None and abs(third.gain.value) < 1e-6
    assert [level.pays for level in found.levels] == [False, True, False]
    assert [note.partition(":")[0] for note in found.notes] == ["Level 2 pays", "Level 3 is not shown to pay"]


def test_a_level_that_ruins_the_rate_harms() -> None:
    below = np.exp(np.linspace(0, 1, 8))
    harmed = made(below, 1.3 * below + 0.01 * np.arange(8))
    assert harmed.levels[1].verdict == "harms" and not harmed.levels[1].pays


def test_differences_of_chance_are_seldom_called_a_gain() -> None:
    rng, called = np.random.default_rng(0), 0
    for _ in range(200):
        seeds = np.exp(rng.normal(size=8))  # tasks differ far more than the stacks do
        below, above = (seeds * np.exp(0.1 * rng.normal(size=8)) for _ in range(2))
        called += made(below, above).levels[1].verdict != "no difference shown"
    assert called <= 0.05 * 200 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_a_gain_far_below_the_spread_of_tasks_is_found_by_pairing() -> None:
    rng = np.random.default_rng(0)
    seeds = np.exp(2 * rng.normal(size=8))
    (level,) = made(seeds, 0.9 * seeds * np.exp(0.01 * rng.normal(size=8))).levels[1:]
    assert level.verdict == "pays" and level.gain is not None
    assert level.gain.value == pytest.approx(-math.log(0.9), abs=0.02)


def test_a_level_pays_by_making_wrong_start_values_matter_less() -> None:
    rng = np.random.default_rng(0)
    noise = [np.exp(0.02 * rng.normal(size=8)) for _ in range(5)]
    noise[1] = noise[0][::-1]
    (first, second) = made(noise[0], noise[1], 3 * noise[2], 1.1 * noise[3], noise[4]).levels
    assert second.verdict == "steadies" and second.pays and "are not known" in second.sentence
    assert first.spread is not None and math.exp(first.spread.value) == pytest.approx(3, rel=0.05)
    assert second.starts[1, 10.0].value == pytest.approx(math.log(1.1), abs=0.05)
    worse = made(noise[0], 1.5 * noise[1], 3 * noise[2], 1.5 * noise[3], 1.5 * noise[4]).levels[1]
    assert worse.verdict == "trades" and not worse.pays
    # One whose result may have lost more than that, for all that eight seeds show, has shown nothing.
    rough = np.exp(np.linspace(-4, 4, 8))
    open_ = made(noise[0], rough, 3 * noise[2], 1.1 * rough, rough).levels[1]
    assert open_.steadier is not None and open_.steadier.low > 0.5
    assert open_.verdict == "no difference shown" and not open_.pays
    # Nor has one whose start values matter less by chance alone.
    wild = made(noise[0], noise[1], 3.0 ** np.array([0, 0, 0, 0, 0, 0, 1, 3]), 1.1 * noise[3], noise[4]).levels[1]
    assert wild.steadier is not None and wild.steadier.value > 0 > wild.steadier.low
    assert wild.verdict == "no difference shown"
    # One that takes the place of what it sets, and has to be set itself, gains nothing.
    assert (
        made(noise[0], noise[1], 3 * noise[2], 1.1 * noise[3], 3 * noise[4]).levels[1].verdict == "no difference shown"
    )


def test_a_level_pays_from_where_its_sum_stays_below() -> None:
    below, above = runs_of([[4, 4, 4, 4, 0.0]] * 2), runs_of([[5, 4, 2, 2, 0.0]] * 2)
    assert break_even(below, above, "sum") == 3  # 5, 9, 11 against 4, 8, 12
    assert break_even(above, below, "sum") == math.inf
    assert break_even(below, runs_of([[9, 3, 5, 2, 1.0]] * 2), "final") == math.inf
    assert break_even(below, runs_of([[9, 3, 5, 2, -1.0]] * 2), "final") == 3


def test_every_depth_has_the_same_evaluations_and_the_same_starts() -> None:
    found = recopt.ablate("quadratic", "sgd/hypergradient/annealing", steps=400, seeds=5, track=False, scales=[])
    losses = [found[text].runs.losses for text in found.spec.depths]
    assert [one.shape for one in losses] == [(5, 401)] * 3
    for one in losses[1:]:
        np.testing.assert_array_equal(one[:, 0], losses[0][:, 0])
    spent = [level.evaluations for level in found.levels]
    assert spent[:2] == [400, 400] and 400 <= spent[2] <= 410
    # Of annealing's own evaluations many are of trials that were taken back: it makes fewer updates.
    assert (np.diff(losses[2]) == 0).sum() > 100


def test_counting_evaluations_changes_nothing_where_each_update_takes_one() -> None:
    both = [
        recopt.compare("quadratic", "adam/hypergradient", baselines=[], steps=30, seeds=3, track=False, budget=budget)
        for budget in ("steps", "evaluations")
    ]
    np.testing.assert_array_equal(*(found.entries[0].runs.losses for found in both))


def test_start_values_are_the_rates_of_the_highest_level() -> None:
    spec = make_ablate_spec({"task": "quadratic", "stack": "adam(lr=0.02)/hypergradient", "scales": [1, 10]})
    assert [(one.stack, one.settings) for one in spec.stacks] == [
        ("adam(lr=0.02)", []), ("adam(lr=0.02)", ["adam.lr=0.2"]),
        ("adam(lr=0.02)/hypergradient", []), ("adam(lr=0.02)/hypergradient", ["adam.lr=0.2"]),
        ("adam(lr=0.02)/hypergradient", ["hypergradient.kappa=1.0"]),
    ]  # fmt: skip
    learned = make_ablate_spec(
        {"task": "quadratic", "stack": "lstm(hidden=4)/adam", "settings": ["level2.every=5"], "scales": [10]}
    )
    assert [one.settings for one in learned.stacks] == [
        [], ["lstm.scale=1.0"], *(["level2.every=5", *one] for one in ([], ["lstm.scale=1.0"], ["adam.lr=0.01"]))
    ]  # fmt: skip
    assert make_ablate_spec({"task": "quadratic", "stack": "adam(lr=1)/sgd"}, depth=4).depths[-1] == (
        "adam(lr=1)/sgd/sgd/sgd"
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"stack": "adam"}, "'adam' has one level, and ablation is of the levels above: give more"),
        ({"stack": "adam/sgd", "seeds": 4}, "An interval of 4 seeds says nothing: give 5 or more."),
        ({"stack": "adam/sgd/annealing", "steps": 150}, r"makes no 2 steps in 150 evaluations: give --steps 1,000"),
        ({"stack": "adam/sgd", "scales": [0]}, "'scales.0' input should be greater than 0"),
        ({"stack": "adam/sgd", "settings": ["task.batch_size=4"]}, "is of the task: put it into its brackets"),
        ({"stack": "adam/sgd", "settings": ["sgdd.lr=4"]}, "did you mean|Did you mean"),
        ({"stack": "adam/sgd", "step": 4}, "Did you mean 'steps'"),
    ],
)
def test_what_cannot_be_told_is_refused(data: dict[str, Any], says: str) -> None:
    with pytest.raises(RecoptError, match=says):
        make_ablate_spec({"task": "quadratic", **data})


def test_a_stopped_ablation_goes_on_to_the_same_figures_by_any_executor(here: Path, empty_store: Path) -> None:
    (here / "runs").mkdir()
    shutil.copy(empty_store, here / "runs")
    spec = make_ablate_spec({"task": "quadratic(dim=3)", "stack": "sgd/hypergradient", "steps": 10, "seeds": 5})
    whole = run_ablation(spec, track=False)
    with pytest.raises(Stopped) as why:
        run_ablation(spec, Stops(7))
    assert why.value.run_id is not None
    again, run = resumed_ablation(why.value.run_id)
    assert again == spec
    rest = Stops()
    found = run_ablation(again, rest, resume=run)
    plain = Stops()
    run_ablation(spec, plain, track=False)
    assert 7 + len(rest.done) == len(plain.done)
    assert [level.gain for level in found.levels] == [level.gain for level in whole.levels]
    assert [level.starts for level in found.levels] == [level.starts for level in whole.levels]
    (row,) = list_runs(None, 2)
    assert (row.kind, row.name) == ("ablation", "ablate quadratic")
    assert row.metrics["level2_pays"] in (0, 1) and row.metrics["level2_gain"] == found.levels[1].gain.value  # type: ignore[union-attr]
    told = json.loads((row.folder / "comparison.json").read_text())  # type: ignore[operator]
    assert [level["stack"] for level in told["levels"]] == ["sgd", "sgd/hypergradient"]
    assert "Whether each level pays" in (row.folder / "report.html").read_text()  # type: ignore[operator]


def test_the_command_prints_what_each_level_brings(recopt: Recopt) -> None:
    quick = ("--steps", "30", "--seeds", "5", "--no-track")
    done = recopt("ablate", "quadratic", "sgd(lr=1e-4)/hypergradient", *quick, "-o", "out")
    assert done.status == 0 and "Level 2 pays: scores change by -" in done.out
    assert Path("out/comparison.png").stat().st_size > 10_000
    told = json.loads(recopt("ablate", "quadratic", "sgd(lr=1e-4)/hypergradient", *quick, "--json").out)
    assert [level["verdict"] for level in told["levels"]] == ["", "pays"]
    assert recopt("ablate", "quadratic", "--spec", "out/comparison.yaml", *quick, "--json").status == 0
    assert "The task comes first" in recopt("ablate", "adam/sgd", "digits").err
    assert "leave --seeds out" in recopt("ablate", "--resume", "x", "--seeds", "6").err
