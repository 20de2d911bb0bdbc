"""``--depth auto``: the height that it finds where the answer is known, its cost, and what it refuses."""

from __future__ import annotations

import pytest

from recopt.checking.errors import RecoptError
from recopt.comparison.deep_enough import deep_enough

from ..commands import Recopt

TASK = {"name": "quadratic", "settings": {"dim": 3}}


def test_a_level_that_has_to_help_is_added_and_one_that_cannot_is_not() -> None:
    told = list[str]()
    stack = "sgd(lr=1e-4)/hypergradient/sgd(lr=1e-300)"
    found = deep_enough(TASK, stack, steps=60, settings=["level3.every=2"], told=told.append, track=False)
    assert found.stack == "sgd(lr=1e-4)/hypergradient" and found.settings == []
    assert told == found.verdicts and "Level 2 pays" in told[0] and "Level 3 is not shown to pay" in told[1]
    # The tasks of 5 runs of depth 1 (3 starts) and 2 (5 starts), then of depth 3 (5 starts) too.
    assert found.evaluations == 5 * 60 * (3 + 5 + 3 + 5 + 5)


def test_one_level_is_kept_where_the_second_cannot_help() -> None:
    found = deep_enough(TASK, "sgd(lr=0.001)/sgd(lr=1e-300)", steps=40, track=False)
    assert found.stack == "sgd(lr=0.001)" and len(found.verdicts) == 1


def test_a_run_has_the_levels_that_pay(recopt: Recopt) -> None:
    done = recopt("run", "quadratic(dim=3)", "sgd(lr=1e-4)/adagrad", "--depth", "auto", "--steps", "60",
                  "--set", "level2.every=1", "--no-track")  # fmt: skip
    assert not done.status
    assert "Level 2 pays" in done.err and "So the run is of sgd(lr=1e-4)/adagrad" in done.err


def test_settings_of_levels_that_are_not_reached_wait_and_those_of_none_are_refused() -> None:
    settings = ["annealing.step=0.1", "level3.every=2"]
    found = deep_enough(TASK, "sgd(lr=0.001)/sgd(lr=1e-300)/annealing", steps=40, settings=settings, track=False)
    assert found.stack == "sgd(lr=0.001)" and not found.settings
    for wrong in ("level5.every=2", "adagrad.lr=2", "nonsense"):
        with pytest.raises(RecoptError, match=wrong.partition("=")[0].partition(".")[0]):
            deep_enough(TASK, "sgd", steps=40, settings=[wrong], track=False)


@pytest.mark.parametrize("given", [["quadratic"], ["quadratic", "sgd", "--spec", "x.yaml"], ["--resume", "x"]])
def test_what_cannot_be_probed_is_refused(recopt: Recopt, given: list[str]) -> None:
    done = recopt("run", *given, "--depth", "auto")
    assert "--depth" in done.err and done.status == 2
    with pytest.raises(RecoptError):
        deep_enough(TASK, "sgd/adagrad", steps=1, track=False)
