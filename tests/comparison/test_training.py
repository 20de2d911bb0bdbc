"""Competitors that are trained first, once or from several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recopt
from recopt.checking.errors import RecoptError
from recopt.comparison import Trainer, compare, make_compare_spec, report_seeds, run_comparison
from recopt.running import repeats
from recopt.running.plan import plan
from recopt.running.repeats import RunSettings, run_all
from recopt.running.statistics import crossed_interval, crossed_paired
from recopt.stacks.failures import RunFailed

from ..comparisons import FAST

RUN: dict[str, Any] = {
    "task": "quadratic(dim=3)", "stack": "mlp-rule(hidden=3,width=3)/adam(lr=0.01)", "steps": 40, "tasks": 2,
    "measure": 0, "settings": ["level2.every=5", "level2.episode=20"], "choose": {"every": 20, "tasks": 4, "steps": 8},
}  # fmt: skip


def test_a_competitor_with_a_run_is_trained_and_then_fixed() -> None:
    shown: list[tuple[str, int, int]] = []
    found = compare("quadratic(dim=3)", [{"run": RUN, "name": "mine"}], baselines=["sgd[lr]"], **FAST,
                    progress=lambda *what: shown.append(what))  # fmt: skip
    mine = found.entries[0]
    result = recopt.run("quadratic(dim=3)", RUN["stack"], steps=40, tasks=2, measure=0, settings=RUN["settings"],
                        choose=RUN["choose"], track=False)  # fmt: skip
    assert result.chosen is not None
    held = repeats.held_at(result.engine.levels, result.engine.graph.slots, result.chosen.values)
    again = run_all("x", held, plan("quadratic(dim=3)", "sgd").task, report_seeds(found.spec), RunSettings(8))
    np.testing.assert_array_equal(mine.runs.losses, again.losses)
    total = result.budget.total
    assert mine.competitor.prepared == total.evaluations + result.chosen.evaluations > 2 * 40
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


def test_competitors_trained_from_the_same_seeds_are_paired_by_them() -> None:
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
    from recopt.running.session import Session

    seeds: list[int] = []
    whole = Session.run

    def watched(session: Session) -> Any:
        seeds.append(session.spec.seed)
        return whole(session)

    monkeypatch.setattr(Session, "run", watched)
    asked = [{"run": RUN, "name": "one", "repeat": 2}, {"run": RUN, "name": "same"}]
    spec = {"task": "quadratic(dim=3)", "stacks": asked, "baselines": [], "seeds": 4, "steps": 5}
    trainer = Trainer(track=False)
    one = run_comparison(make_compare_spec(spec), track=False, trainer=trainer)
    np.testing.assert_array_equal(one["one"].runs.losses[:4], one["same"].runs.losses)
    other = run_comparison(make_compare_spec({**spec, "task": "quadratic(dim=2)", "guards": True}), track=False,
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
    shipped = Path(__file__).parents[2] / "strategies" / "mlp_rule.py"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "my_rule.py").write_text(shipped.read_text().replace("class MlpRule", "class MyRule"))
    (tmp_path / "two" / "my_adam.py").write_text(
        (shipped.parent / "adam.py").read_text().replace("class Adam", "class MyAdam")
    )
    run = {**RUN, "stack": "my-rule(hidden=3)/my-adam(lr=0.01)", "plugins": [str(tmp_path / "one")]}
    found = compare("quadratic", [{"run": run}], baselines=[], **FAST, plugins=[tmp_path / "two"])
    assert found.entries[0].name == "my-rule(hidden=3)/my-adam(lr=0.01)"
    for plugins, says in (
        ("one", "'plugins' should be a list of folders and files, not 'one'"),
        (["one"], "from 'one'"),
    ):
        with pytest.raises(RecoptError, match=says):
            compare("quadratic", [{"run": {**RUN, "plugins": plugins}, "name": "x"}], baselines=[], **FAST)
