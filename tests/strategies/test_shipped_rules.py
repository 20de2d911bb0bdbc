"""The trained rules that ship: what they do is held to what was measured, so that a change beneath them shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import recopt
from recopt.comparison import Comparison, compare
from recopt.stacks.plugins import list_strategies

FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "strategies").glob("*/stack.json"))


def against(task: str, rule: str, untrained: str, seeds: int) -> tuple[float, float, Comparison]:
    """The means of the trained and of the untrained rule on the same tasks."""
    found = compare(task, [rule, untrained], seeds=seeds, baselines=[], track=False)
    trained, before = (figures.score[0].value for figures in found.figures)
    assert all(figures.diverged == 0 for figures in found.figures)
    return trained, before, found


def test_the_rule_for_quadratics() -> None:
    """4,000 instances have a mean of 32.8 (docs/learned.md); these are the first 256 of them."""
    untrained = "blend(decay=0, memory=12, nominal=secant, ridge=1e-6)"
    trained, _, found = against("quadratic", "learned-quadratic", untrained, 256)
    assert trained == pytest.approx(31.04, rel=0.03)
    assert found.entries[0].competitor.prepared == 1_300_784


def test_the_general_rule_beats_what_it_was_made_from_where_it_was_not_trained() -> None:
    trained, before, _ = against("digits(net=cnn)", "learned", "blend(scale=1.1)", 4)
    assert trained == pytest.approx(43.26, rel=0.03)
    assert trained < before


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_is_listed_with_the_first_line_of_a_card_that_is_filled_in(folder: Path) -> None:
    card = (folder / "card.md").read_text()
    listed = {info.name: info for info in list_strategies([])}
    assert listed[folder.name].trained and listed[folder.name].summary == card.splitlines()[0]
    assert "not measured" not in card
    assert {"## Trained on", "## How", "## Tested on", "## Fails on"} <= set(card.splitlines())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_trains_a_model_in_anybody_s_loop(folder: Path) -> None:
    ends = []
    for by_closure in (False, True):
        torch.manual_seed(0)
        model, x = (
            torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)),
            torch.randn(64, 4),
        )
        optimizer = recopt.Optimizer(model.parameters(), folder.name)

        def loss(
            model: torch.nn.Module = model, x: torch.Tensor = x, optimizer: recopt.Optimizer = optimizer
        ) -> torch.Tensor:
            optimizer.zero_grad()
            found = (model(x).squeeze() - x.sum(1).sin()).square().mean()
            found.backward()
            return found

        first = loss().item()
        for _ in range(30):
            optimizer.step(loss) if by_closure else optimizer.step(loss=loss())
        ends.append(loss().item())
        assert ends[-1] < 0.6 * first
    assert ends[0] == ends[1]
