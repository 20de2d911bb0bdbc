"""What ``recopt.run`` shows while it runs: a line in a notebook or a terminal, nothing in a pipe."""

from __future__ import annotations

import re

import pytest

import recopt


@pytest.fixture(autouse=True)
def _at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recopt.running.progress.EVERY", 0.0)


def run(**more: object) -> None:
    recopt.run("quadratic", "adam", steps=5, track=False, **more)  # type: ignore[arg-type]


def test_a_notebook_shows_one_line_that_is_rewritten_and_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    run()
    shown = capsys.readouterr().out
    first, *lines, blank, last = shown.split("\r")
    assert (first, last, len(lines)) == ("", "", 5) and blank == " " * len(lines[-1].rstrip())
    assert "step 3 of 5" in shown and "loss" in shown
    run(progress=False)
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_the_levels_and_a_pipe_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recopt.running.progress.LINE_EVERY", 0.0)
    run()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    run()
    shown = capsys.readouterr()
    assert "of 5" in shown.err and "1  adam" in shown.err and shown.out == ""


def test_no_digit_is_cut_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    recopt.run("quadratic", "adam/hypergradient/annealing", steps=3, track=False)
    shown = capsys.readouterr().err
    assert "…" not in shown.replace("Setting up …", "")
    assert "hypergradient" in shown and "adaptation" in shown


def test_the_loss_is_that_of_the_step_while_a_trial_is_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    steps = {"steps": 30, "settings": ["level2.every=20"]}
    recopt.run("quadratic", "adam(lr=0.1)/annealing", track=False, **steps)  # type: ignore[arg-type]
    losses = re.findall(r"step (\d+) of 30.*?loss ([\d.]+)", capsys.readouterr().err)
    first = [loss for step, loss in losses if int(step) < 20]
    assert len(first) > 10 and len(set(first)) > 5


def test_the_first_step_says_nothing_of_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    run()
    lines = capsys.readouterr().out.split("\r")
    assert [" left" in line for line in lines if "of 5" in line] == [False, True, True, True, True]
