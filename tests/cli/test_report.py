"""``recopt report``: runs as pages."""

from __future__ import annotations

from pathlib import Path

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
