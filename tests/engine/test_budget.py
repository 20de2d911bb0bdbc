"""Accounts."""

from __future__ import annotations

from recopt.engine.budget import Budget


def test_there_and_back() -> None:
    budget = Budget(2)
    budget.spend(0, gradient=3, seconds=0.5)
    budget.spend(1, loss=2, hypergradient=1)
    budget.spend(0, gradient=1)
    assert (budget.total.loss, budget.total.gradient, budget.total.hypergradient) == (2, 4, 1)
    again = Budget.from_plain(budget.plain())
    assert again.levels == budget.levels
    assert again.total == budget.total
