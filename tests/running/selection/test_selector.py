"""Which values a run hands on: that they are the best, are told by other tasks, and that choosing leaves no trace."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import recopt
from recopt import Graph, Task
from recopt.comparison import make_compare_spec, report_seeds, tuning_seeds
from recopt.levels.seeds import mix
from recopt.running.plan import plan
from recopt.running.repeats import RunSettings, fixed, run_all
from recopt.running.selection.scores import Score
from recopt.running.selection.selector import reporting_seeds, selection_seeds
from recopt.running.spec import SelectionSettings
from recopt.running.statistics import paired
from recopt.tasks import make

from ...choices import CHOOSE, exported, rate, rising, same
from ...engines import Bowl


class Dropping(Task):
    """A net with dropout, which draws from torch's global generator."""

    vectorize = False

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def batch(self, index: int, split: str = "train") -> Tensor:
        return torch.randn(8, 3, generator=self.generator(index))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        loss: Tensor = ((model(batch) - batch.sum(1, keepdim=True)) ** 2).mean()
        return loss


@pytest.mark.parametrize("stack", ["adam/sgd", "sgd(lr=0.01)/annealing", "adam/hypergradient/annealing"])
@pytest.mark.parametrize("task", [Bowl, Dropping])
def test_choosing_leaves_the_run_as_it_would_have_been(stack: str, task: type[Task]) -> None:
    settings = [f"level{stack.count('/') + 1}.every=8"] if "annealing" in stack else []
    made: list[Any] = [
        recopt.run(task(), stack, steps=60, tasks=2, settings=settings, track=False, choose=choose)
        for choose in (None, "every=10, tasks=3, steps=5")
    ]
    same(*made)
    drawn = []
    for run in made:
        with run.engine.stream:
            drawn.append(torch.rand(()))
    assert drawn[0] == drawn[1], "the run's stream of random numbers is where it was"
    steps, scores = made[1].history("choose_score")
    assert steps[0] == 0
    assert 50 < steps[-1] <= 60
    assert len(steps) >= 4
    assert np.isfinite(scores).all()


def test_the_tasks_of_a_choice_are_no_others() -> None:
    how = SelectionSettings(tasks=64)
    spec = make_compare_spec({"task": "quadratic", "seeds": 1000, "seed": 999})
    sets = [selection_seeds(how), reporting_seeds(how), report_seeds(spec), tuning_seeds(spec), [*range(100)]]
    sets.append([mix(seed, draw, n) for seed in range(5) for draw in range(5) for n in range(20)])
    assert len(set().union(*sets)) == sum(map(len, sets))
    assert len(selection_seeds(how)) == len(reporting_seeds(how)) == 64


def test_what_is_handed_on_scored_best_and_is_told_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = recopt.run(Bowl(), rising(), steps=200, choose=CHOOSE)
    chosen, (steps, scores) = result.chosen, result.history("choose_score")
    lost = result.history("choose_diverged")[1]
    assert chosen is not None
    assert chosen.score is not None
    assert lost[-1] == 4, "the rate ends where it cannot work"
    best = min(range(len(steps)), key=lambda n: (lost[n], scores[n]))
    assert 0 < best < len(steps) - 1
    assert (chosen.step, chosen.score.mean) == (steps[best], scores[best])
    assert 0.3 < result.hyperparameters["sgd.lr"] < 1.0 < result.history("lr", level=1)[1][-1]
    # The report is what anyone finds who takes the export and runs it on those tasks.
    assert result.folder is not None
    graph = exported(result.folder / "export")
    assert rate(graph) == pytest.approx(result.hyperparameters["sgd.lr"], rel=1e-6)
    how = SelectionSettings.model_validate(CHOOSE)
    for seeds, told in ((selection_seeds(how), chosen.score), (reporting_seeds(how), chosen.report["chosen"])):
        runs = run_all("x", graph, Bowl(), seeds, RunSettings(how.steps), test=False)
        assert runs.losses[:, :-1].sum(1).mean() == pytest.approx(told.mean, rel=1e-6)
        assert told.low < told.mean < told.high
    assert chosen.report["chosen"].mean < chosen.report["before"].mean
    assert (chosen.report["last"].diverged, chosen.report["last"].step) == (4, 200)
    titles = [axes.get_title(loc="left") for axes in result.plot().axes]
    assert "Score on fresh tasks" in titles
    assert "Metrics" not in titles
    written = json.loads((result.folder / "export" / "stack.json").read_text())["chosen"]
    assert written == chosen.facts()
    assert chosen.evaluations == 4 * 11 * (len(steps) + 3)


def test_the_objective_is_what_it_says() -> None:
    found = {}
    for objective in ("sum", "mean", "last"):
        result = recopt.run(Bowl(), rising(), steps=20, choose={**CHOOSE, "objective": objective}, track=False)
        found[objective] = result.history("choose_score")[1][0]
    assert found["mean"] == pytest.approx(found["sum"] / 10)
    assert found["last"] < found["mean"]


def score(mean: float, diverged: int = 0, tasks: int = 4) -> Score:
    return Score(10, mean, mean - 1, mean + 1, diverged, tasks)


def test_which_score_beats_which() -> None:
    assert score(1.0).beats(None)
    assert score(1.0).beats(score(2.0))
    assert not score(2.0).beats(score(2.0))
    assert score(3.0).beats(score(2.0, diverged=1)), "a rule that diverges on fewer tasks goes first"
    assert score(3.0, diverged=1).beats(score(2.0, diverged=2))
    for unusable in (score(math.nan), score(math.inf), score(1.0, diverged=4)):
        assert not unusable.beats(None)
        assert score(9.0).beats(unusable)


def test_where_no_score_is_usable_the_last_values_are_handed_on() -> None:
    class Lost(Bowl):
        def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
            return super().loss(model, batch) * (math.nan if self.seed >= 3_000_000_000 else 1.0)

    result = recopt.run(Lost(), rising(), steps=60, choose=CHOOSE, track=False)
    assert result.chosen is not None
    assert (result.chosen.score, result.chosen.step) == (None, 60)
    assert result.hyperparameters["sgd.lr"] == pytest.approx(result.history("lr", level=1)[1][-1], rel=1e-6)
    assert np.isnan(result.history("choose_score")[1]).all()


def test_a_run_whose_score_gets_no_better_ends_early() -> None:
    result = recopt.run(Bowl(), rising(), steps=2000, choose={**CHOOSE, "patience": 3}, track=False)
    assert result.status == "FINISHED"
    assert result.chosen is not None
    assert result.chosen.stopped
    steps, _ = result.history("choose_score")
    assert result.engine.state.step == result.chosen.last == steps[-1] < 2000
    assert steps.tolist().index(result.chosen.step) == len(steps) - 4
    longer = recopt.run(Bowl(), rising(), steps=int(steps[-1]), choose=CHOOSE, track=False)
    assert longer.chosen is not None
    assert not longer.chosen.stopped


def test_a_short_meta_training_beats_the_untrained_rule_and_tuned_sgd() -> None:
    """On tasks that it was not trained on, chosen by, nor the rate of SGD tuned on."""
    steps, family = 30, make("quadratic", dim=3)
    result = recopt.run(
        family, "mlp-rule/adam(lr=0.01)", steps=600, tasks=32, seed=1, measure=0, track=False,
        settings=["level2.every=15", f"level2.episode={steps}", "level2.objective=sum"],
        choose={"every": 200, "tasks": 32, "steps": steps},
    )  # fmt: skip

    def sums(graph: Graph, seeds: Sequence[int]) -> NDArray[np.float64]:
        return run_all("it", graph, family, seeds, RunSettings(steps), test=False).score("sum")

    def sgd(lr: float) -> Graph:
        return plan("quadratic", f"sgd(lr={lr})", settings=["level1.guard=false"]).graph

    assert result.chosen is not None
    rule = result.engine.graph.slots["mlp_rule"]
    untrained = fixed(result.spec.levels, {"mlp_rule": rule})
    trained_rule = copy.deepcopy(rule)
    with torch.no_grad():
        for parameter, value in zip(trained_rule.parameters(), result.chosen.values["mlp_rule"], strict=True):
            parameter.copy_(value)
    trained = fixed(result.spec.levels, {"mlp_rule": trained_rule})
    rates, tuned_on = [10 ** (n / 4) for n in range(-12, -1)], range(6_000_000, 6_000_064)
    best = min(rates, key=lambda lr: sums(sgd(lr), tuned_on).mean())
    assert rates[0] < best < rates[-1]
    held_out = range(5_000_000, 5_000_256)
    found = sums(trained, held_out)
    for other, share in ((sums(untrained, held_out), 0.6), (sums(sgd(best), held_out), 0.9)):
        assert found.mean() < share * other.mean()
        assert paired(found, other).mean.high < 0


@pytest.mark.parametrize("descendants", [1, 3])
def test_a_rule_that_is_best_before_its_ruin_is_not_chosen_by_its_descendants(descendants: int) -> None:
    ways = [
        recopt.run(Bowl(), rising(), steps=170, track=False, choose={**CHOOSE, "descendants": count}).chosen
        for count in (0, descendants)
    ]
    whole = recopt.run(Bowl(), rising(), steps=170, track=False, choose=CHOOSE)
    steps, scores = whole.history("choose_score")
    lost = whole.history("choose_diverged")[1]
    scores = np.where(np.isfinite(scores), scores, math.inf)
    families = [(lost[n : n + 1 + descendants].sum(), scores[n : n + 1 + descendants].mean())
                for n in range(len(scores) - descendants)]  # fmt: skip
    greedy, careful = (one.step for one in ways if one is not None)
    assert greedy == steps[min(range(len(scores)), key=lambda n: (lost[n], scores[n]))]
    assert careful == steps[min(range(len(families)), key=families.__getitem__)]
    assert careful < greedy or descendants == 1, "what it becomes is worse"
