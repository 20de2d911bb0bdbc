"""``recopt compare`` as a user meets it: what it writes and records, its spec, and mistakes."""

from __future__ import annotations

import csv
import io
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recopt.checking.errors import RecoptError
from recopt.cli import progress_bar as bars
from recopt.cli.progress_bar import ComparisonOutlook, Outlook, cost_words, progress_bar
from recopt.comparison import EACH, CompareSpec, make_compare_spec
from recopt.running.plan import plan
from recopt.running.spec import COMPARES, KNOWN, RUNS, write_spec
from recopt.tracking.mlflow.runs import list_runs

from ..commands import RULE, Recopt, call, write

QUICK = ("--seeds", "6", "--steps", "8", "--tune", "3", "--tune-tasks", "4")


def test_the_command_writes_and_records_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = call("compare", "quadratic", "sgd(lr=0.01)", "--baselines", "sgd[lr],adam", *QUICK, "-o", "out",
                  "--trained", "sgd(lr=0.01)=500")  # fmt: skip
    out = capsys.readouterr().out
    assert status == 0 and "Each baseline was tuned by 3 trials on 4 other tasks: 96 evaluations" in out
    told = json.loads((tmp_path / "out/comparison.json").read_text())
    assert [e["name"] for e in told["entries"]] == ["sgd(lr=0.01)", "tuned sgd[lr]", "tuned adam"]
    assert told["entries"][0]["prepared"] == 500 and told["entries"][1]["prepared"] == 96
    assert len(told["entries"][1]["trials"]) == 3 and len(told["entries"][0]["curve"]["median"]) == 9
    rows = list(csv.DictReader((tmp_path / "out/runs.csv").open()))
    assert len(rows) == 3 * 6 and rows[0]["seed"] == "1000000000"
    mean = np.mean([float(row["score"]) for row in rows if row["name"] == "tuned adam"])
    assert mean == pytest.approx(told["entries"][2]["score"])
    assert (tmp_path / "out/comparison.png").stat().st_size > 10_000
    (run,) = list_runs(None, 5)
    assert run.params["reference"] == told["reference"] and run.status == "FINISHED"
    assert run.metrics["reference_score"] == pytest.approx(
        next(e["score"] for e in told["entries"] if e["name"] == told["reference"])
    )
    _nested(run.id, told)


def _nested(root: str, told: dict[str, Any]) -> None:
    from recopt.tracking.mlflow.children import PARENT
    from recopt.tracking.mlflow.store import open_store

    store = open_store()
    parent = store.run(root)
    nested = store.client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{root}'")
    scores = {run.data.tags["recopt.strategy"]: run.data.metrics["score"] for run in nested}
    assert scores == pytest.approx({e["name"]: e["score"] for e in told["entries"]})
    adam = next(run for run in nested if run.data.tags["recopt.strategy"] == "tuned adam")
    assert float(adam.data.params["lr"]) == told["entries"][2]["hyperparameters"]["lr"]
    curve = store.client.get_metric_history(adam.info.run_id, "loss_median")
    assert [point.value for point in curve] == pytest.approx(told["entries"][2]["curve"]["median"])


def test_its_spec_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("quadratic(dim=3)", "adam(lr=0.1)/hypergradient", "--baselines", "sgd", *QUICK, "--no-track")
    assert call("compare", *arguments, "-o", "one") == 0
    assert call("compare", "--spec", "one/comparison.yaml", "--no-track", "-o", "two") == 0
    for name in ("runs.csv", "table.csv", "curves.csv", "comparison.yaml"):
        assert Path("one", name).read_text() == Path("two", name).read_text()


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing": ((), "Give a task and stacks"),
    "task": (("digit", "adam"), "Unknown task 'digit'. Did you mean 'digits'?"),
    "stack": (("quadratic", "adm/sgd"), "Unknown strategy 'adm' in 'adm/sgd'. Did you mean 'adam'?"),
    "baseline": (("quadratic", "--baselines", "adm"), "Unknown strategy 'adm' in baseline 'adm'."),
    "baseline's form": (("quadratic", "--baselines", "adam["), "'adam[' should name one baseline, like adam or"),
    "no baseline": (("quadratic", "--baselines", ""), "'' should name one baseline, like adam or adam(beta1=0.8)"),
    "trained without end": (
        ("quadratic", "sgd", "--trained", "sgd=1e400"),
        "--trained 'sgd=1e400' should read STACK=EVAL",
    ),
    "nobody": (("quadratic", "--baselines", "none"), "there is nothing to compare"),
    "trained": (("quadratic", "sgd", "--trained", "sgd"), "should read STACK=EVALUATIONS"),
    "trained whom": (("quadratic", "sgd", "--trained", "sdg=3"), "Unknown stack 'sdg' in --trained 'sdg=3'."),
    "seeds": (("quadratic", "sgd", "--seeds", "1"), "--seeds"),
    "spec": (("--spec", "none.yaml"), "The spec none.yaml cannot be read"),
    "device": (("quadratic", "sgd", "--device", "none"), "The device 'none' is not available"),
    "graph": (("quadratic", "annealing/sgd"), "no gradient passes through level 1"),
    "store": (("quadratic", "sgd", "--store", "sqlit:///x.db"), "of an unknown kind 'sqlit'"),
    "place": (("quadratic", "sgd", "-o", "full/x/out"), "full/x/out cannot be written (Not a directory)"),
    "output": (("quadratic", "sgd", "-o", "full"), "full has other things in it"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/x").touch()
    arguments, said = MISTAKES[name]
    assert call("compare", *arguments) == 2
    found = capsys.readouterr()
    assert said in " ".join(found.err.split()) and found.out == "" and "Traceback" not in found.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.update(step=3), "there is no 'step'. Did you mean 'steps'?"),
        (lambda d: d["stacks"].append({"stack": "sgd", "nam": 1}), "there is no 'stacks.0.nam'. Did you mean 'name'?"),
        (lambda d: d.update(steps="many"), "'steps' should be a whole number, not 'many'."),
        (lambda d: d.pop("task"), "'task' is missing."),
        (lambda d: d.update(measure="best"), "'measure'"),
        (lambda d: d.update(stacks=[3]), "'stacks.0' should be a mapping, not 3."),
    ],
)
def test_a_mistake_in_a_spec_is_placed(change: Callable[[dict[str, Any]], None], said: str) -> None:
    data: dict[str, Any] = {"task": "quadratic", "stacks": []}
    change(data)
    with pytest.raises(RecoptError) as why:
        make_compare_spec(data, "mine.yaml")
    assert str(why.value).startswith("In mine.yaml: ") and said in str(why.value)


def test_the_spec_of_a_run_is_told_from_that_of_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for text, name in (
        ("task: quadratic\nstack: adam\n", "stack"),
        (write_spec(plan("quadratic", "adam").spec), "strat"),
    ):
        Path("run.yaml").write_text(text)
        assert call("compare", "--spec", "run.yaml") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"Error: In run.yaml '{name}") and said.count("\n") == 1
        assert "belongs to a run, not to a comparison: give the file to 'recopt run --spec', or name it" in said
    assert {*CompareSpec.model_fields, EACH} - set(KNOWN[""]) >= COMPARES and not RUNS & set(CompareSpec.model_fields)


def test_a_series_runs_each_row_and_says_which_data_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECOPT_OFFLINE", "1")
    monkeypatch.setenv("RECOPT_DATA", str(tmp_path / "nowhere"))
    each = [
        {"name": "ten: 1/2", "task": "quadratic"}, {"task": "quadratic(dim=2)", "seeds": 5},
        {"name": "letters", "task": "emnist"},
    ]  # fmt: skip
    spec = {"stacks": ["sgd(lr=1e-5)"], "baselines": ["sgd[lr]"], "seeds": 9, "each": each}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec))
    assert call("compare", "--spec", "s.yaml", "--steps", "6", "--tune", "4", "--tune-tasks", "4", "-o", "out") == 0
    assert "letters: not run here. Data are missing" in capsys.readouterr().out
    lines = list(csv.DictReader((tmp_path / "out/series.csv").open()))
    assert [line["row"] for line in lines] == 2 * ["ten: 1/2"] + 2 * ["quadratic(dim=2)"]
    for folder, own, count in (("ten-1-2", lines[:2], 9), ("quadratic-dim=2", lines[2:], 5)):
        scores: dict[str, list[float]] = {}
        for run in csv.DictReader((tmp_path / "out" / folder / "runs.csv").open()):
            scores.setdefault(run["name"], []).append(float(run["score"]))
        means = [float(np.mean(values)) for values in scores.values()]
        assert [len(values) for values in scores.values()] == [count, count]
        assert [float(line["score"]) for line in own] == pytest.approx(means)
        assert [float(line["ratio"]) for line in own] == pytest.approx([means[0] / means[1], 1])
    assert "| letters | not run here |  |" in (tmp_path / "out/series.md").read_text()
    assert (tmp_path / "out/series.png").stat().st_size > 5_000
    assert {run.name for run in list_runs(None, 5)} == {"ten: 1/2", "quadratic(dim=2)"}
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"ten-1-2", "quadratic-dim=2"}


def test_a_row_that_fails_leaves_those_before_it_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "from recopt.tasks.quadratic import Quadratic\nclass Mine(Quadratic):\n    def loss(self, model, batch):\n"
    Path("mine.py").write_text(f"{text}        raise ValueError('no such thing')\n")
    each = [{"task": "quadratic"}, {"task": "mine.py"}, {"task": "quadratic(dim=2)"}]
    Path("s.yaml").write_text(yaml.safe_dump({"stacks": ["sgd(lr=1e-5)"], "baselines": [], "each": each}))
    assert call("compare", "--spec", "s.yaml", "--no-track", "--seeds", "3", "--steps", "2", "-o", "out") == 1
    assert "Error: The task 'mine', run by 'sgd(lr=1e-5)' from seed 1000000000, failed in" in capsys.readouterr().err
    lines = csv.DictReader(Path("out/series.csv").read_text().splitlines())
    assert [line["row"] for line in lines] == ["quadratic"]
    assert {path.name for path in Path("out").iterdir() if path.is_dir()} == {"quadratic"}


@pytest.mark.parametrize(
    ("each", "said"),
    [
        ({"task": "quadratic"}, "'each' should be a list of mappings"),
        ([{"task": "quadratic"}, {"task": "quadratic"}], "two rows under 'each' are called 'quadratic'"),
        ([{"task": "quadratic", "step": 3}], "each 1: there is no 'step'. Did you mean 'steps'?"),
    ],
)
def test_what_a_series_refuses(
    each: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"stacks": ["sgd"], "each": each}))
    assert call("compare", "--spec", "s.yaml") == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_what_goes_on_stays_in_sight_however_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    import rich.console
    import rich.progress

    terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(rich.console, "Console", lambda **_: terminal)
    bars: list[rich.progress.Progress] = []

    def start(bar: rich.progress.Progress) -> None:
        bars.append(bar)

    monkeypatch.setattr(rich.progress.Progress, "start", start)
    with progress_bar(Outlook()) as show:
        for number in range(40):
            for done in (1, 2):
                show(f"training {number}", done, 2)
        show("training 40", 1, 2)
        seen = [task.description for task in bars[0].tasks if task.visible]
        assert len(seen) < 24 and seen[-2:] == ["training 39", "training 40"]


def test_a_comparison_says_first_what_it_costs() -> None:
    stacks = [{"stack": "sgd"}, {"run": {"stack": "lstm/adam", "steps": 500}, "repeat": 3}]
    data = {"task": "quadratic", "stacks": stacks, "baselines": ["sgd", "adam"], "steps": 10, "seeds": 5}
    one = make_compare_spec({**data, "tune": 7, "tune_tasks": 2})
    other = make_compare_spec({"task": "quadratic", "stacks": ["sgd"], "baselines": [], "steps": 100, "seeds": 2})
    assert cost_words([one, other]).startswith(
        "To do: training 1,500 steps; tuning 28 runs, 280 steps; comparing 32 runs, 500 steps. --seeds"
    )
    assert cost_words([other]).startswith("To do: comparing 2 runs, 200 steps. ")


def test_the_time_that_is_left_is_told_from_the_first_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    spec = {"task": "quadratic", "stacks": ["sgd"], "baselines": ["adam"], "seeds": 4, "tune": 2, "tune_tasks": 3}
    outlook, seen = ComparisonOutlook(make_compare_spec(spec)), []
    work = [("training lstm", 9), ("running sgd", 1), ("running sgd", 4), ("tuning adam", 1), ("tuning adam", 2),
            ("running tuned adam", 4)]  # fmt: skip
    for seconds, (what, done) in zip((100, 2, 6, 3, 3, 4), work, strict=True):
        now[0] += seconds
        outlook.see(what, done, 0)
        seen.append(outlook.words)
    # 3 runs of 2 s, and 10 more at most as slow; then 7 of 1 s; then 4
    assert seen == ["", "at most 26 s left", "at most 20 s left", "about 7.0 s left", "about 4.0 s left",
                    "about 0.0 s left"]  # fmt: skip


def test_a_comparison_without_a_terminal_prints_a_line_now_and_then(
    recopt: Recopt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bars, "_LINE_EVERY", 0.0)
    done = recopt("compare", "quadratic", "sgd", "--baselines", "none", "--seeds", "2", "--steps", "3", "--no-track")
    first, second, *_, last = done.err.splitlines()
    assert first.startswith("To do: comparing 2 runs, 6 steps.")
    assert second.startswith("running sgd  ")
    assert last.startswith("running sgd  2 of 2  about ") and last.endswith(" left")


@pytest.mark.parametrize("sign", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_comparison_that_is_stopped_ends_at_once_and_says_what_is_kept(recopt: Recopt, sign: str) -> None:
    write(
        RULE.format(body=f"import signal; signal.raise_signal(signal.{sign}); print('it goes on')"),
        "strategies/mine.py",
    )
    asked = ("compare", "quadratic", "mine", "--baselines", "none", "--seeds", "2")
    done = recopt(*asked, "--no-track")
    assert (done.status, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "Stopped. Nothing of it is recorded, so the same command begins again."
    done, (run,) = recopt(*asked), list_runs(None, 5)
    assert (done.status, done.out, run.status) == (130, "", "KILLED")
    assert done.err.splitlines()[-1].endswith(f"Go on by: recopt compare --resume {run.id}")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
