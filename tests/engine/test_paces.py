"""Paces: ``every`` of a level as a hyperparameter, held to loops by hand and to runs at a fixed pace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Generator, nn

import recopt
from recopt import Params, RecoptError, State, Strategy, Trial, option
from recopt.engine.engine import Engine
from recopt.levels.paces import Divisor
from recopt.running.plan import replan
from recopt.running.spec import read_spec, write_spec
from recopt.stacks.fetch import read_export

from .. import engines


class Script(Strategy):
    """The paces in ``script``, one after the other."""

    order: ClassVar[Any] = 0
    vectorize = False
    population = option(1, "one point", choices=(1,))
    script = option((1,), "paces")

    def init(self, point: Params) -> State:
        return {"steps": 0}

    def propose(self, point: Params, state: State, rng: Generator) -> list[Params]:
        at = self.script[min(state["steps"], len(self.script) - 1)]
        return [[torch.full_like(p, math.log(at)) for p in point]]

    def forward(self, point: Params, trials: Sequence[Trial], state: State, rng: Generator) -> tuple[Params, State]:
        return [q - p for p, q in zip(point, trials[0].point, strict=True)], {"steps": state["steps"] + 1}


def make(stack: str, settings: Any, task: Any = None, **options: Any) -> Engine:
    return engines.engine(task or engines.Bowl(seed=2), stack, settings, rules={"script": Script}, seed=2, **options)


def by_hand(paces: Sequence[int], first: int, span: int, steps: int) -> tuple[list[float], list[float]]:
    """Losses and rates of gradient descent whose log rate goes down the gradient of a window's mean loss."""
    scale = torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1], dtype=torch.float64)
    made = make("sgd(lr=0.1)", {})
    x = made.state.task.params[0].detach().clone().view(-1)
    log_rate, losses, rates = math.log(0.1), list[float](), list[float]()
    come, slopes, every, plan, left = torch.zeros_like(x), list[float](), first, list(paces), 0
    for _ in range(steps):
        g = scale * x
        losses.append(float(0.5 * (scale * x * x).sum()))
        if come.any():
            slopes.append(float(g @ come))  # of this loss by the log rate
        if len(slopes) == every:
            left -= every
            if left <= 0:
                every, left = (plan.pop(0) if plan else every), span
            log_rate -= 0.5 * sum(slopes) / len(slopes)
            come, slopes = torch.zeros_like(x), []
        rates.append(math.exp(log_rate))
        update = -math.exp(log_rate) * g
        come, x = come + update, x + update
    return losses, rates


def test_windows_of_changing_length_are_those_of_a_loop_by_hand() -> None:
    paces, settings = (6, 1, 3, 2, 12), {2: {"every": 4, "normalize": "none"}, 3: {"every": 3}}
    made = make(f"sgd(lr=0.1)/sgd(lr=0.5)/script(script=[{','.join(map(str, paces))}])[every]", settings)
    made.run(70)
    made.flush()
    assert isinstance(made.sink, engines.Recorder)
    losses, rates = by_hand(paces, 4, 12, 70)
    assert engines.losses(made) == pytest.approx(losses, rel=1e-12)
    at = dict(zip(made.sink.steps(1, "lr"), made.sink.series(1, "lr"), strict=True))
    assert [at[step] for step in at] == pytest.approx([rates[step] for step in at], rel=1e-12)
    assert made.sink.steps(3, "meta_loss") == [4 + 12 * n for n in range(1, 6)]


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(
    "stack", ["adam(lr=0.02)/sgd", "adam(lr=0.02)/hypergradient", "sgd(lr=0.05, momentum=0.5)/adam[*]"]
)
def test_a_pace_that_stays_is_that_of_the_level(stack: str, second: bool) -> None:
    settings = {2: {"every": 3, "second_order": second, "normalize": "rms" if second else "cosine"}}
    fixed = make(stack, settings, engines.Regression(seed=1))
    moved = make(f"{stack}/script(script=[3])[every]", {**settings, 3: {"every": 4}}, engines.Regression(seed=1))
    for one in (fixed, moved):
        one.run(40)
        one.flush()
    assert engines.losses(moved) == pytest.approx(engines.losses(fixed), rel=1e-12)


def test_trials_of_different_paces_are_scored_by_as_many_evaluations() -> None:
    stack = "sgd(lr=0.05)/sgd/random-search(population=4)[every]"
    made = make(stack, {2: {"every": 2}, 3: {"every": 6}}, engines.Regression(seed=1))
    made.run(120)
    made.flush()
    assert isinstance(made.sink, engines.Recorder)
    losses, ends = engines.losses(made), made.sink.steps(3, "meta_loss")
    assert ends == [2 + 12 * n for n in range(1, len(ends) + 1)]
    means = [float(np.mean(losses[end - 11 : end + 1])) for end in ends]
    assert made.sink.series(3, "meta_loss") == pytest.approx(means, rel=1e-12)
    paces = set(made.sink.series(2, "every"))
    assert len(paces) > 1 and paces <= {1, 2, 3, 4, 6, 12}
    assert made.budget.levels[2].gradient == 3 * 12 * len(ends)


def test_whole_windows_fit_into_episodes_too() -> None:
    made = make("sgd(lr=0.05)/sgd/annealing[every]", {2: {"every": 4, "episode": 20}, 3: {"every": 3}})
    domain = made.graph.slots["sgd2"]._domains["every"]
    assert isinstance(domain, Divisor) and domain.numbers == [1, 2, 4]
    made.run(200)
    assert made.state.task.draw == 9


def test_a_divisor_is_the_nearest_in_logarithms() -> None:
    domain = Divisor(whole=12)
    assert domain.numbers == [1, 2, 3, 4, 6, 12]
    points = torch.tensor([-1.0, 0.3, math.log(2.4), math.log(2.5), math.log(8.6), 9.0], dtype=torch.float64)
    assert domain.natural(points).tolist() == [1, 1, 2, 3, 12, 12]
    assert all(float(domain.natural(torch.tensor(domain.coordinate(n)))) == n for n in domain.numbers)
    with pytest.raises(ValueError, match="a divisor of 12"):
        domain.coordinate(5)


@pytest.mark.parametrize(
    ("stack", "settings", "said"),
    [
        ("adam/annealing[every]", [], "Level 2 .*: 'adam' moves the task, and steps at every evaluation"),
        ("adam/hypergradient/sgd[every]", [], "whole number, which has no gradient: move it by a zero-order strategy"),
        ("adam/sgd/annealing[every]", ["level2.objective=sum"], "compared by means of losses, not by objective=sum"),
        ("adam/sgd/annealing[every]", ["level3.objective=last"], "compared by means of losses, not by objective=last"),
        ("adam/sgd/annealing[every]", ["level2.episode=20", "level2.curriculum=3"], "for windows of one length"),
        ("adam/sgd/sgd[lr]+annealing[every]", ["level2.second_order=true"], "set second_order=false"),
        ("adam/sgd/annealing[every]/random-search", ["level4.episode=3"], "Level 4 .*would start 'every'"),
        ("adam/sgd/annealing[evry]", [], "matches no parameter of 'sgd'"),
    ],
)  # fmt: skip
def test_a_pace_that_cannot_be_moved_is_refused(stack: str, settings: list[str], said: str) -> None:
    with pytest.raises(RecoptError, match=said):
        replan({}, task="quadratic", stack=stack, settings=settings)


def test_levels_that_step_at_different_times_have_no_common_pace() -> None:
    stack = "adam@a[*weight]+sgd@b[*bias]/hypergradient/annealing[every]"
    with pytest.raises(RecoptError, match="step at different times: give them the same"):
        replan({}, task="digits", stack=stack, settings=["level3.every=5"])
    assert replan({}, task="digits", stack=stack).graph.paces.spans


def test_a_moved_pace_is_in_the_record_the_spec_and_the_export(here: Path, empty_store: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    stack = "adam/sgd/random-search(population=4)[every]"
    found = recopt.run("digits", stack, steps=90, settings=["level2.every=3", "level3.every=4"], seed=1, progress=None)
    assert found.folder is not None
    values = set(found.history("every", 2)[1])
    assert len(values) > 1 and found.hyperparameters["sgd.every"] in values
    (here / "again.yaml").write_text(write_spec(found.spec))
    again = recopt.run(replay=str(found.folder), track=False, progress=None)  # without the levels that found it
    assert np.abs(again.losses - found.losses).max() < 1e-5
    repeated = replan(read_spec(here / "again.yaml"))
    assert repeated.graph.describe() == found.stack and repeated.graph.paces.spans == {2: 12}
    levels, slots = read_export(found.folder / "export")
    exported = recopt.Graph(levels, slots)
    assert levels[1].every == found.hyperparameters["sgd.every"] and exported.paces.spans == {2: 12}


def test_an_optimizer_in_a_loop_changes_its_pace(here: Path) -> None:
    model = nn.Linear(3, 1)
    levels = {2: {"every": 2}, 3: {"every": 4}}
    opt = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/sgd/random-search(population=3)[every]", levels=levels)
    seen, saved = list[float](), None
    for step in range(60):
        opt.zero_grad()
        loss = (model(torch.ones(2, 3)) - 1).square().mean()
        loss.backward()
        opt.step(loss=loss)
        seen.append(opt.hyperparameters()["sgd2.every"])
        saved = opt.state_dict() if step == 40 else saved
    assert len(set(seen)) > 1 and set(seen) <= {1, 2, 4, 8}
    assert saved is not None
    other = recopt.Optimizer(model.parameters(), "sgd(lr=0.01)/sgd/random-search(population=3)[every]", levels=levels)
    other.load_state_dict(saved)
    assert other.hyperparameters()["sgd2.every"] == seen[40]
