"""The card of an export: what a run knows of itself, and what nobody has measured yet."""

from __future__ import annotations

from pathlib import Path

import pytest

import recopt
from recopt.running.card import card_of
from recopt.running.export import write_export
from recopt.stacks.exported import read_card
from recopt.stacks.plugins import load_strategy


@pytest.fixture(scope="module")
def result() -> recopt.Result:
    return recopt.run("quadratic(dim=3)", "lstm(hidden=4)/adam", steps=60, tasks=2, seed=7, track=False,
                      settings=["level2.every=5", "level2.episode=20"])  # fmt: skip


def section(card: str, name: str) -> str:
    return card.partition(f"## {name}\n\n")[2].partition("\n\n##")[0].strip()


def test_a_card_tells_what_the_run_knows_and_no_more(result: recopt.Result) -> None:
    card = card_of(result.engine, result.spec, result.trace)
    assert card.startswith("lstm(hidden=4), trained on quadratic(dim=3) for 60 steps.\n\n")
    assert section(card, "Trained on") == "`quadratic(dim=3)`, 2 side by side"
    how = section(card, "How")
    spent = result.budget.total
    for fact in ("stack: `lstm(hidden=4)/adam`", "steps: 60 of 60", "seed: 7", "precision: float32",
                 f"by: recopt {recopt.__version__}, torch ",
                 f"evaluations: {spent.evaluations:,} of the task, {spent.hypergradient:,} hy"):  # fmt: skip
        assert f"- {fact}" in how
    losses = result.history("meta_loss", 2)[1]
    tenth = max(1, len(losses) // 10)
    first, last = losses[:tenth].mean(), losses[-tenth:].mean()
    assert f"- meta-loss of level 2 (mean over 5 steps): {last:.4g} in the last tenth of the run, {first:.4g} in" in how
    assert section(card, "Tested on") == section(card, "Fails on") == "not measured"
    assert "(mean over 5 steps): not measured" in card_of(result.engine, result.spec)


def test_what_no_level_moved_is_not_called_trained() -> None:
    made = recopt.run("quadratic(dim=3)", "adam(lr=0.1)", steps=3, track=False)
    card = card_of(made.engine, made.spec, made.trace)
    assert card.startswith("adam(lr=0.1), as it ran (no level moves it) on quadratic(dim=3) for 3 steps.")
    assert section(card, "Trained on") == "nothing"


def test_the_card_is_what_a_strategy_is_documented_by(
    result: recopt.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_export(result.engine, result.spec, tmp_path / "rule")
    monkeypatch.chdir(tmp_path)
    card = tmp_path / "rule" / "card.md"
    assert load_strategy("rule", "rule").__doc__ == card.read_text().strip()
    card.write_text("# Rule\n\nWins on sums of squares — α.\n\n## Fails on\n\nAll else.\n", encoding="utf-8")
    assert read_card(tmp_path / "rule") == "Wins on sums of squares — α.\n\n## Fails on\n\nAll else."
    for empty in (b"", b"# Only a title\n", b"\xff\xfe"):
        card.write_bytes(empty)
        assert read_card(tmp_path / "rule") is None
    without = "lstm(hidden=4), exported from a run on quadratic(dim=3); it has no card.md."
    assert load_strategy("rule", "rule").__doc__ == without
