"""How a choice is asked for, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from recopt import RecoptError
from recopt.running.plan import plan, replan
from recopt.running.spec import SelectionSettings, write_spec


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        ({"evry": 3}, "there is no 'choose.evry'. Did you mean 'every'?"),
        ("task=3", "there is no 'choose.task'. Did you mean 'tasks'?"),
        ("every", "'choose' should read like every=500, tasks=64, not 'every'."),
        ({"tasks": 1}, "'choose.tasks' input should be greater than or equal to 2, not 1"),
        ({"objective": "best"}, "'choose.objective' input should be 'sum', 'mean' or 'last', not 'best'"),
        (5, "'choose' should be a mapping, not 5."),
    ],
)
def test_what_cannot_be_meant_is_refused(choose: Any, says: str) -> None:
    with pytest.raises(RecoptError) as refused:
        plan("quadratic", "adam/sgd", choose=choose)
    assert says in str(refused.value)


def test_where_there_is_nothing_to_choose_that_is_said() -> None:
    with pytest.raises(RecoptError, match="There is nothing to choose from: no level moves adam"):
        plan("quadratic", "adam", choose={})
    with pytest.raises(RecoptError, match="the seed must be below 1,000,000,000"):
        plan("quadratic", "adam/sgd", choose={}, seed=3_000_000_000)


def test_what_is_said_besides_a_spec_goes_before_it() -> None:
    data = {"task": "quadratic", "stack": "lstm/adam", "choose": {"every": 7, "patience": 2}, "steps": 400}
    assert replan(data, choose="patience=3").spec.choose == SelectionSettings(every=7, patience=3)
    made = replan({**data, "choose": "tasks=9"}).spec
    assert made.choose == SelectionSettings(every=20, tasks=9), "a twentieth of the run"
    assert "every: 20" in write_spec(made)
    assert "choose" not in write_spec(plan("quadratic", "adam").spec)


def test_more_descendants_than_a_run_has_scores_are_refused_before_it() -> None:
    plan("quadratic", "lstm/adam", steps=40, choose={"every": 10, "descendants": 4})
    with pytest.raises(RecoptError, match="descendants=5 .* 40 steps with a score every 10 have 4: lower it or choose"):
        plan("quadratic", "lstm/adam", steps=40, choose={"every": 10, "descendants": 5})
