"""Comparisons: the same tasks for all, independent runs, honest tuning, and what is written down."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import recopt
from recopt.checking.errors import RecoptError
from recopt.comparison import compare, make_compare_spec, read_compare_spec
from recopt.comparison.figures import break_even
from recopt.plots.comparison import dashes
from recopt.plots.style import colour
from recopt.running.repeats import RunSettings, run_all
from recopt.stacks.failures import RunFailed
from recopt.tasks.quadratic import Quadratic
from recopt.tracking.mlflow.runs import list_runs

from ..comparisons import FAST, entry, graph


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
    from recopt.running.export import write_export

    result = recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=120, track=False,
                        settings=["level2.every=5", "level2.episode=20"])  # fmt: skip
    write_export(result.engine, result.spec, tmp_path / "mine")
    found = compare("quadratic(dim=3)", [str(tmp_path / "mine"), "lstm(hidden=4)"], baselines=["sgd[lr]"], **FAST)
    mine, fresh = found.entries[0], found.entries[1]
    assert mine.name == "mine" and mine.competitor.kind == "export"
    assert len(mine.competitor.graph.levels) == 1
    total = result.budget.total
    assert mine.competitor.prepared == total.evaluations >= 120
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
    constant = run_all("x", graph("adam(lr=0.2)"), task, seeds, RunSettings(100), test=False).score("sum")
    tuned = run_all(
        "x", graph("adam(lr=0.3,beta1=0.7,beta2=0.95)", settings=cosine), task, seeds, RunSettings(100), test=False
    )
    for score, known in ((constant, 107.2), (tuned.score("sum"), 89.5)):
        assert abs(score.mean() - known) < 3 * score.std() / math.sqrt(len(score))


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(RecoptError, match="Unknown competitor 'sg' as the 'reference'. Did you mean 'sgd'?"):
        compare("quadratic", ["sgd"], baselines=[], reference="sg", **FAST)


def test_competitors_of_one_colour_differ_in_dashes() -> None:
    assert len({(colour(n), str(dashes(n))) for n in range(48)}) == 48
