"""``recopt compare`` with competitors that are trained first."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest
import yaml

from recopt.comparison import plan_series, read_compare_spec
from recopt.comparison.training import trainee
from recopt.running.session import Session
from recopt.tracking.mlflow.runs import list_runs

from ..commands import call

TRAINED = """
task: quadratic(dim=3)
stack: mlp-rule(hidden=3, width=3)/adam(lr=0.01)
settings: [level2.every=5, level2.episode=20]
tasks: 2
steps: 20
"""


def test_a_run_is_trained_once_for_all_rows_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("specs").mkdir()
    Path("specs/rule.yaml").write_text(TRAINED)
    asked = [{"run": "rule.yaml", "repeat": 2}, {"name": "long", "run": "rule.yaml", "settings": ["level2.every=10"]}]
    spec = {"stacks": asked, "baselines": ["sgd[lr]"], "reference": "rule", "seeds": 4, "steps": 6, "tune": 2,
            "tune_tasks": 2, "each": [{"task": "quadratic(dim=3)"}, {"task": "quadratic(dim=2)"}]}  # fmt: skip
    Path("specs/s.yaml").write_text(yaml.safe_dump(spec))
    assert call("compare", "--spec", "specs/s.yaml", "-o", "out") == 0
    out = capsys.readouterr().out
    assert "in brackets 95 % intervals, over tasks and trainings where there are several" in out
    assert "rule: trained 2 times, with means " in out and "All of them, relative to rule (below 1" in out
    told = json.loads(Path("out/quadratic-dim=3/comparison.json").read_text())
    assert [e["name"] for e in told["entries"]] == ["rule", "long", "tuned sgd[lr]"] and told["reference"] == "rule"
    assert [e["trainings"] for e in told["entries"]] == [2, 1, 1]
    rows = list(csv.DictReader(Path("out/quadratic-dim=3/runs.csv").read_text().splitlines()))
    assert [(r["name"], r["trained_from"], r["seed"]) for r in rows[::4]] == [
        ("rule", "0", "1000000000"), ("rule", "1", "1000000000"), ("long", "0", "1000000000"),
        ("tuned sgd[lr]", "", "1000000000"),
    ]  # fmt: skip
    runs = {run.id: run for run in list_runs(None, 9)}
    names = sorted(run.name for run in runs.values())
    trained = ["train long", "train rule, seed 0", "train rule, seed 1"]
    assert names == ["quadratic(dim=2)", "quadratic(dim=3)", *trained]
    ids = [one["run_id"] for e in told["entries"] for one in e.get("trained", [])]
    assert [runs[key].name for key in ids] == ["train rule, seed 0", "train rule, seed 1", "train long"]
    folder = Path("out/quadratic-dim=3")
    assert call("compare", "--spec", str(folder / "comparison.yaml"), "--no-track", "-o", "again") == 0
    for name in ("runs.csv", "comparison.yaml"):
        assert Path("again", name).read_text() == (folder / name).read_text()


def test_an_interrupted_training_stops_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rule.yaml").write_text(TRAINED)
    Path("s.yaml").write_text(yaml.safe_dump({"task": "quadratic", "stacks": [{"run": "rule.yaml"}], "baselines": []}))
    whole = Session._between

    def interrupted(session: Session) -> None:
        whole(session)
        if session.step == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "_between", interrupted)
    assert call("compare", "--spec", "s.yaml", "--no-track") == 130
    said = capsys.readouterr()
    assert "Stopped." in said.err and said.out == ""


def test_the_shipped_ablation_can_begin() -> None:
    path = Path(__file__).parents[2] / "runs" / "experiment-7-ablation.yaml"
    first, second = plan_series(read_compare_spec(path), str(path))
    assert first.spec.stacks == second.spec.stacks and first.spec.reference == first.spec.stacks[0].name
    made = [trainee(asked, first.spec) for asked in first.spec.stacks]
    specs = [one.plans[0].spec for one in made]
    assert len({spec.model_dump_json() for spec in specs}) == len(specs)  # every line differs from the recipe
    assert {len(one.plans) for one in made} == {3} and {spec.steps for spec in specs} == {specs[0].steps}
