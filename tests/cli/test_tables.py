"""Tables on narrow terminals: parts below each other, and no figure cut."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from recopt.cli.tables import print_json, table

from ..commands import call

HEADS = ("name", "mean", "difference", "words", "evaluations", "p")
ROWS = [
    ("adam/hypergradient[lr]/annealing", "59.3312 (23.25–95.67)", "+24.65 (+6.277 to +43.02)", "a b c d e f g",
     "1,234,567", "0.25"),
    ("tuned sgd", "34.68 (15.83–53.54)", "reference", "h", "12", "< 1e-4"),
]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160])
def test_every_figure_is_whole_at_any_width(width: int) -> None:
    out = io.StringIO()
    made = table(*HEADS, right=(1, 2, 4, 5), wrap=(3,))
    for row in ROWS:
        made.add_row(*row)
    Console(file=out, width=width).print(made)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for row in ROWS:
        for cell in (*row[1:3], *row[4:]):
            assert any(cell in line for line in lines), cell
    assert sum("59.3312" in line for line in lines) == 1
    assert len([line for line in lines if set(line) <= {"─", " "} and line.strip()]) == (1 if width == 160 else
                                                                                       lines.count("") + 1)  # fmt: skip


def test_json_has_null_for_what_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": float("nan"), "b": [1, float("inf"), "x"], "c": None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1, None, "x"], "c": None}


def test_the_table_of_a_run_has_what_rules_tell_and_counts_rates_of_coordinates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    many = ["--set", "level2.scope=coordinate"]
    for stack, more, says in (
        ("self-tied(base=sgd)", [], r"task +rate \d"),
        ("paced", [], r"task +rate \d"),
        ("adam/gate[lr]", ["--set", "level2.every=1"], "odds 2.25  compared 2  won 2"),
        ("adam/sgd", many, r"\(middle of 10\)"),
    ):
        assert call("run", "quadratic", stack, "--steps", "3", "--no-track", *more) == 0
        said = capsys.readouterr().out
        assert re.search(says, said) and "meta-parameters" not in said, said
