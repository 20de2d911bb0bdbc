"""Pages of runs: what stands on them, that they need nothing from elsewhere, and what they remark."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recopt.checking.errors import RecoptError
from recopt.diagnosis.remarks import diagnosis
from recopt.diagnosis.view import SUMMARY, LevelView, RunView, read_run, write_summary
from recopt.plots.page import page, write_page
from recopt.tracking.trace import Trace

SPENT = {"gradient_evaluations": 300.0, "loss_evaluations": 0.0, "hypergradient_evaluations": 0.0, "seconds": 1.5}
LEVELS = (
    LevelView(1, "adam", "task", "", {"lr": 1e-3}, {"lr": 0.1}, {**SPENT, "steps": 300.0}),
    LevelView(2, "sgd", "adam[lr]", "online", {"lr": 0.01}, {"lr": 0.01}, {**SPENT, "steps": 299.0}),
)
SETTLED = [1.0] * 20 + [0.5] * 280
VOID = {"meta", "path", "use", "rect", "br", "br/", "image", "circle"}


def view(losses: Any = None, levels: tuple[LevelView, ...] = LEVELS, status: str = "FINISHED", **more: Any) -> RunView:
    trace = Trace()
    trace.add(0, 0, {"test_accuracy": 0.1})
    for step, loss in enumerate(np.full(300, 0.5) if losses is None else losses):
        trace.add(0, step, {"loss": float(loss)})
        trace.add(1, step, {"lr": 1e-3 * 100 ** (step / 300), "signal_norm": 1.0})
        trace.add(2, step, {"lr": 0.01, "signal_norm": 0.1, "normalized_norm": 1.0})
    about = {"task": "digits", "stack": "adam/sgd[lr]", "status": status, "steps": "300"}
    metrics = {"final_loss": 0.1, "test_accuracy": 0.97, "evaluations": 300.0, "seconds": 3.0}
    return RunView("a run", about, {**metrics, **more}, levels, trace, "<svg id='graph'></svg>")


class Balance(HTMLParser):
    """Notes elements that are not closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def test_a_page_shows_the_whole_run_and_takes_nothing_from_elsewhere() -> None:
    text = page([view()])
    for title in ("Diagnosis", "Losses and metrics", "Levels", "Hyperparameters", "Signals", "Budget by level"):
        assert f"<h2>{title}" in text
    assert text.index("Words on this page") < text.index("<b>evaluation</b>: one computation of the task's loss")
    assert "<svg id='graph'></svg>" in text and "0.001 → <b>0.1</b>" in text
    assert "<b>0.97</b><span>test accuracy</span><small>from 0.1</small>" in text
    assert text.count("<figure>") == 1 + 1 + 1 + 2  # the loss, the accuracy, the rate that moved, two signals
    found = re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!DOCTYPE[^>]*>', "", text, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)=[\"'](?!#)|@import|url\((?!#)|<script|http", found)
    balance = Balance()
    balance.feed(text)
    assert not balance.wrong and not balance.open


def test_evaluations_of_levels_add_up_to_those_of_the_run() -> None:
    spent = {"gradient_evaluations": 901.0, "loss_evaluations": 20.0, "hessian_products": 12.0,
             "hypergradient_evaluations": 77.0, "seconds": 1.0}  # fmt: skip
    text = page([view(levels=(LEVELS[0], LevelView(2, "sgd", "adam[lr]", spent=spent)))])
    bars = re.findall(r"</span>&nbsp;([\d,.]+)", text[text.index("Budget by level") :])
    assert bars[::2] == ["933", "300"]
    assert "<th>Hessian products</th>" in text
    assert "<th>Hessian products</th>" not in page([view()])


def test_several_runs_stand_side_by_side_and_one_by_one() -> None:
    text = page([view(), view(np.full(300, 2.0))])
    assert "<title>2 runs</title>" in text and text.count("<details>") == 2
    assert text.count("<tr><td data-head='run'><div><i class=dot") == 2 and "Training loss" in text


def test_names_are_text_and_no_markup() -> None:
    run = view(levels=(LevelView(1, "<b>x", "task"),))
    text = page([RunView("<script>", {**run.about, "stack": "<img src=x>"}, {}, run.levels, run.trace)])
    assert "<script>" not in text and "<img" not in text and "&lt;img" in text


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (view(SETTLED, levels=(LevelView(1, "adam", "task"),)), "Nothing unusual"),
        (view(np.geomspace(1, 0.01, 300)), "still fell by 37% over the last tenth"),
        (view([1.0] * 290 + [float("nan")] * 10), "the training loss is not finite (1 at first, 1 before)"),
        (view(status="KILLED"), "interrupted before its last step"),
        (view(status="FAILED"), "traceback.txt"),
        (view(levels=(LEVELS[0], LevelView(2, "sgd", "adam", spent={"steps": 0.0}))), "from step 0: made no step"),
        (view(levels=(LEVELS[0], LevelView(2, "sgd", "adam[lr]"))), "moved adam's lr from 0.001 to 0.1, ×100"),
        (view(levels=(LevelView(1, "adam", "task", "", {"lr": 1e-4}, {"lr": 0.1}), LevelView(2, "sgd", "adam[lr]"))),
         "moved adam's lr from 0.0001 to 0.1, ×1e+03"),  # a trial has moved it before it is first recorded
        (view(levels=(LevelView(1, "adam", "task", spent={"skipped_total": 3, "restored_total": 1}),)),
         "skipped 3 evaluations and took 1 updates back"),
        (view(levels=(LevelView(1, "adam", "task", spent={"frozen_tasks": 1}),)), "stands still"),
    ],
)  # fmt: skip
def test_the_diagnosis_names_what_is_unusual(run: RunView, says: str) -> None:
    assert any(says in text for text in diagnosis(run)), diagnosis(run)


def test_a_gate_is_told_by_its_comparisons_and_not_by_its_trials() -> None:
    run = view(levels=(*LEVELS, LevelView(3, "gate", "gated[gamma]")))
    run.trace.add(
        3, 10, {"accepted": 1.0, "gate.odds": 4.0, "gate.compared": 4.0, "gate.won": 4.0, "gate.rolled_back": 0.0}
    )
    run.trace.add(
        3, 20, {"accepted": 0.0, "gate.odds": 2.0, "gate.compared": 5.0, "gate.won": 4.0, "gate.rolled_back": 1.0}
    )
    says = "won 4 of 5 comparisons, took 1 windows back, and ended with odds of 2 that opening pays"
    assert any(says in text for text in diagnosis(run))
    assert not any("trials" in text for text in diagnosis(run))
    assert "gate.rolled_back" in page([run])


@pytest.mark.parametrize(("held_out", "stopped"), [((0.5, 0.1, 0.1, 0.1), True), ((0.5, 0.4, 0.2, 0.1), False)])
def test_more_steps_are_not_praised_where_the_held_out_loss_has_stopped_falling(
    held_out: tuple[float, ...], stopped: bool
) -> None:
    run = view(np.geomspace(1, 0.1, 300))
    for n, value in enumerate(held_out):
        run.trace.add(0, 60 * (n + 1), {"valid_loss": value})
    (said,) = (text for text in diagnosis(run) if "still fell" in text)
    assert ("the held-out loss stopped falling" in said) == stopped


def test_a_held_out_loss_that_rises_is_called_overfitting_only_where_the_training_loss_falls() -> None:
    for losses, found in ((np.geomspace(1, 0.1, 300), True), (np.linspace(1, 2, 300), False)):
        run = view(losses)
        for step, value in ((0, 1.0), (100, 0.5), (200, 0.7), (299, 0.9)):
            run.trace.add(0, step, {"valid_loss": value})
        assert any("by heart" in text for text in diagnosis(run)) == found
        taught = replace(run, levels=(*run.levels, LevelView(9, "sgd", "adam", "every 5 steps, episodes of 5")))
        assert not any("by heart" in text for text in diagnosis(taught)), "each episode has a model of its own"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    run = view()
    write_summary(tmp_path, replace(run, metrics={**run.metrics, "best": float("nan")}))
    (tmp_path / "graph.svg").write_text("<?xml?><svg></svg>")
    found = read_run(tmp_path, "other", "FAILED")
    assert (found.name, found.status, found.levels, found.diagram) == ("other", "finished", run.levels, "<svg></svg>")
    assert np.isnan(found.metrics["best"]) and found.metrics["seconds"] == 3.0
    assert write_page([found], tmp_path / "report.html").stat().st_size > 5000


def test_a_run_that_goes_on_or_failed_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    from recopt.tracking.trace import save_trace

    run = view()
    write_summary(tmp_path, replace(run, about={**run.about, "status": "RUNNING"}, metrics={}))
    save_trace(run.trace, tmp_path / "trace.npz")
    assert read_run(tmp_path).status == "running" and read_run(tmp_path, status="FAILED").status == "failed"
    assert read_run(tmp_path).levels[0].end["lr"] == pytest.approx(0.1, rel=0.1)
    frames = 'Traceback (most recent call last):\n  File "mine.py", line 7, in forward\n    raise Late\n'
    for error, said in (
        ("a.b.Late: too <late>.", "Late: too <late>"),
        ("Late", "Late"),
        ("Late: one\nof two", "Late: one"),
    ):
        (tmp_path / "traceback.txt").write_text(f"{frames}{error}\n")
        assert diagnosis(read_run(tmp_path, status="FAILED"))[0].startswith(f"The run failed with {said}. The whole")
    assert "<late>" not in page([read_run(tmp_path, status="FAILED")])


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"name": 1, "about": {"status": "x"}, "metrics": {}, "levels": [3]}']
)
def test_a_damaged_summary_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(RecoptError, match="has no summary.json: it is not the folder of a run"):
        read_run(tmp_path)
    (tmp_path / SUMMARY).write_text(content)
    with pytest.raises(RecoptError, match=r"summary.json cannot be read \(.*\): restore it"):
        read_run(tmp_path)


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecoptError, match="cannot be written"):
        write_page([view()], tmp_path / "none" / "report.html")
