"""Comparisons whose work is done by other processes: the same numbers to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recopt
from recopt.checking.errors import RecoptError
from recopt.comparison import Comparison, compare
from recopt.stacks.failures import RunFailed
from recopt.tasks.quadratic import Quadratic

from ..comparisons import FAST
from ..sweeps.plugins import TASK
from .test_training import RUN

RULE = """
from recopt import Strategy, positive
class Mine(Strategy):
    '''Plain steps.'''
    rate = positive(0.01)
    def forward(self, point, trials, state, rng):
        return [-self.rate * g for g in trials[0].grads], state
"""


def same(one: Comparison, other: Comparison) -> None:
    """All numbers but the time that they took."""
    assert [e.name for e in one.entries] == [e.name for e in other.entries] and one.reference == other.reference
    for a, b in zip(one.entries, other.entries, strict=True):
        np.testing.assert_array_equal(a.runs.losses, b.runs.losses)
        assert a.runs.test.keys() == b.runs.test.keys()
        for key in a.runs.test:
            np.testing.assert_array_equal(a.runs.test[key], b.runs.test[key])
        for name in ("evaluations", "hypergradients", "restored", "times"):
            assert getattr(a.runs, name) == getattr(b.runs, name)
        assert list(a.competitor.trials) == list(b.competitor.trials)
        assert a.competitor.hyperparameters == b.competitor.hyperparameters


def test_a_comparison_is_the_same_by_other_processes(here: Path) -> None:
    Path("strategies").mkdir()
    Path("strategies/mine.py").write_text(RULE)
    trained = {"run": RUN, "name": "trained", "repeat": 2}
    run = recopt.run("quadratic(dim=3)", "mine/adam(lr=0.01)", steps=20)
    assert run.folder is not None
    stacks: list[Any] = ["adam(lr=0.1)/hypergradient/annealing", "mine(rate=0.02)", "learned", trained,
                         str(run.folder / "export")]  # fmt: skip
    made = [compare("quadratic(dim=3)", stacks, baselines=["sgd", "adam[lr]"], executor=name, workers=count, **FAST)
            for name, count in (("inline", 1), ("processes", 2))]  # fmt: skip
    same(*made)
    assert made[0].entries[0].runs.losses.shape == (6, 9) and made[0].entries[3].runs.times == 2


def test_a_class_that_no_name_finds_stays_in_this_process() -> None:
    class Here(Quadratic):
        """A task of this test."""

    assert compare(Here(dim=2), "sgd", baselines=[], **FAST).entries
    with pytest.raises(RecoptError, match="is a class that no other process finds: put it into a file"):
        compare(Here(dim=2), "sgd", baselines=[], executor="processes", **FAST)
    assert compare(Quadratic(dim=2), "sgd", baselines=[], executor="processes", workers=1, **FAST).entries


def test_an_error_in_a_plugin_ends_it_with_the_plugins_traceback(here: Path) -> None:
    Path("mine.py").write_text(TASK.replace("print(", "1 / 0; print("))
    for name in ("inline", "processes"):
        with pytest.raises(RunFailed, match=r"The task 'mine', run by 'sgd' from seed 1000000000, .*mine.py, line"):
            compare("mine.py", "sgd", baselines=[], executor=name, **{**FAST, "track": True})
        kept = max(Path("runs/artifacts").rglob("traceback.txt"), key=lambda file: file.stat().st_mtime)
        assert "ZeroDivisionError: division by zero" in kept.read_text() and "in batch" in kept.read_text()


def test_a_job_that_always_kills_its_worker_ends_a_comparison(here: Path) -> None:
    Path("mine.py").write_text(TASK)
    with pytest.raises(RunFailed, match=r"Its worker ended with status 3, 3 times\."):
        compare("mine.py(deadly=1.0)", "sgd", baselines=[], executor="processes", workers=1, **FAST)
