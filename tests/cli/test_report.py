"""``recopt report``: runs as pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..commands import Recopt


def test_runs_are_written_as_pages_alone_and_together(recopt: Recopt) -> None:
    for name in ("one", "two"):
        assert recopt("run", "quadratic", "adam/sgd", "--steps", "12", "--name", name).status == 0
    alone = recopt("report", "one")
    page = Path(alone.out.strip())
    assert alone.status == 0 and page.name == "report.html" and "adam/sgd" in page.read_text()
    assert recopt("report", "one", "two", "-o", "both.html").out == "both.html\n"
    text = Path("both.html").read_text()
    assert "2 runs" in text and ">one</summary>" in text and ">two</summary>" in text
    listed = recopt("runs")
    assert "recopt report RUN" in listed.out


@pytest.mark.parametrize(("exact", "shown"), [("true", True), ("false", False)])
def test_hessian_products_are_a_column_where_some_were_made_on_the_page_and_in_the_table(
    recopt: Recopt, exact: str, shown: bool
) -> None:
    settings = ("--set", f"level2.second_order={exact}", "--set", "level2.every=2", "--name", "one")
    done = recopt("run", "quadratic", "sgd/adam", "--steps", "4", *settings)
    assert ("Hessian" in done.out) is shown
    page = Path(recopt("report", "one").out.strip()).read_text()
    assert ("<th>Hessian products</th>" in page) is shown


def test_a_comparison_has_a_page_of_its_own(recopt: Recopt) -> None:
    options = ("--seeds", "3", "--steps", "4", "--baselines", "none", "--name", "mine")
    compared = recopt("compare", "quadratic", "sgd(lr=0.001)", "adam", *options)
    assert compared.status == 0
    told = next(line.split()[1] for line in compared.out.splitlines() if line.startswith("report "))
    assert "Mean and median are of the sum of the losses at the steps: less is better." in Path(told).read_text()
    done = recopt("report", "mine")
    assert done.status == 2 and done.err.startswith("Error: 'mine' is a comparison, which has a page of its own: ")
    page = Path(done.err.strip().rpartition(": ")[2].removesuffix("."))
    assert "sgd(lr=0.001)" in page.read_text() and "<svg" in page.read_text()


def test_what_cannot_be_reported_is_refused(recopt: Recopt) -> None:
    done = recopt("report", "x", "-o", "page.pdf")
    assert (done.status, done.err) == (
        2, "Error: A report is written to .html, not 'page.pdf': change the ending.\n",
    )  # fmt: skip
    assert recopt("report").status == 2


def test_why_names_level_step_figures_and_a_remedy_that_a_bad_run_said_at_its_end(recopt: Recopt) -> None:
    done = recopt("run", "quadratic", "sgd(lr=1)", "--set", "level1.guard=false", "--steps", "60", "--name", "bad")
    told = recopt("why", "bad")
    assert (done.status, told.status) == (1, 0) and "To change: --set level1.guard=true\n" in told.out
    assert told.out[told.out.index("Level 1 (sgd), from step") :].strip() == (
        done.out[done.out.index("Level 1 (sgd), from step") :].strip()
    )
    (fault,) = json.loads(recopt("why", "bad", "--json").out)
    assert (fault["kind"], fault["level"], fault["name"]) == ("not finite", 1, "sgd")
    assert str(fault["step"]) in told.out and "The training loss is not finite" in told.out
    page = Path(recopt("report", "bad").out.strip()).read_text()
    assert "the training loss is not finite" in page
    (row,) = json.loads(recopt("runs", "--json").out)
    assert row["tags"]["recopt.why"].startswith("Level 1 (sgd), from step")


def test_why_finds_nothing_wrong_in_a_healthy_run_and_refuses_what_is_no_run(recopt: Recopt) -> None:
    assert recopt("run", "quadratic", "adam/sgd", "--steps", "60", "--name", "good").status == 0
    told = recopt("why", "good")
    assert told.status == 0 and "Nothing went wrong, by what is recorded." in told.out and "To change" not in told.out
    assert json.loads(recopt("why", "good", "--json").out) == []
    assert recopt("why", "none").err.startswith("Error: There is no run 'none'")


def test_why_tells_the_error_of_a_run_that_failed(recopt: Recopt) -> None:
    Path("late.py").write_text(
        "from recopt import Strategy\n\nclass Late(Strategy):\n    '''Fails.'''\n\n"
        "    def forward(self, point, trials, state, rng):\n        raise ValueError('too late')\n"
    )
    assert recopt("run", "quadratic", "late.py", "--steps", "6", "--name", "broken").status == 1
    told = recopt("why", "broken")
    assert "with ValueError: too late. The whole error is in the run's traceback.txt" in told.out
    assert "Nothing went wrong" not in told.out
