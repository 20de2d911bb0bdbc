"""Runs from Python: what they give, what they leave, and that they can be gone on with."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import recopt
from recopt import Graph, Level, Params, RecoptError, RunFailed, State, Strategy, Task, Trial, option, positive
from recopt.running.checkpoints import CHECKPOINT, TRACE
from recopt.running.plan import Plan, plan, replan
from recopt.running.result import Result
from recopt.running.session import RunOptions, Session
from recopt.running.spec import write_spec
from recopt.stacks.fetch import read_export
from recopt.tasks import make
from recopt.tracking.mlflow.runs import list_runs, working_folder
from recopt.tracking.mlflow.store import open_store
from recopt.tracking.trace import save_trace


class Rule(Strategy):
    """Plain steps, but for one of them."""

    rate = positive(0.1)
    fails_at = option(-1)

    def init(self, point: Params) -> State:
        return {"steps": 0}

    def forward(
        self, point: Params, trials: Sequence[Trial], state: State, rng: torch.Generator
    ) -> tuple[Params, State]:
        if state["steps"] == self.fails_at:
            raise ArithmeticError("lost\nmy way.")
        assert trials[0].grads is not None
        return [-self.rate * g for g in trials[0].grads], {"steps": state["steps"] + 1}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_result_has_histories_figures_and_the_model() -> None:
    result = recopt.run("digits(net=logistic)", "adam(lr=0.01)/hypergradient", steps=40, measure=10, track=False)
    assert (result.status, result.stack, result.run_id, result.folder) == (
        "FINISHED", "adam(lr=0.01)/hypergradient[lr]", None, None)  # fmt: skip
    assert result.losses.shape == (40,)
    assert result.losses[-1] < result.losses[0]
    steps, accuracy = result.history("valid_accuracy")
    assert steps.tolist() == [10, 20, 30, 40]
    assert result.history("lr", level=1)[1][-1] == pytest.approx(result.hyperparameters["adam.lr"], rel=0.2)
    optimizer = recopt.Optimizer([torch.nn.Parameter(torch.ones(2))], "adam(lr=0.01)/hypergradient")
    assert result.hyperparameters.keys() == optimizer.hyperparameters().keys()
    assert result.after["accuracy"] > 0.4 > result.before["accuracy"]
    assert list(result.after) == ["loss", "accuracy"]  # as tables show them
    assert accuracy[-1] > 0.4
    assert result.model()(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert result.plot().axes
    assert not result.diverged
    assert repr(result).startswith("digits  adam(lr=0.01)/hypergradient[lr]\nfinished, 40 of 40 steps\ntraining loss  ")
    assert f"adam.lr {result.hyperparameters['adam.lr']:.4g}  adam.beta1 0.9" in repr(result)
    assert "<pre>" in result._repr_html_()
    assert not Path("runs").exists()


def piped(result: Result) -> Any:
    """A result as a process pool hands it from one process to another."""
    ours, theirs = multiprocessing.Pipe()
    theirs.send(result)
    return ours.recv()


@pytest.mark.parametrize("copied", [copy.deepcopy, piped])
@pytest.mark.parametrize("task", ["digits(net=logistic)", "object"])
def test_a_result_goes_to_another_process(copied: Any, task: str) -> None:
    given = make("quadratic", dim=4) if task == "object" else task
    result = recopt.run(given, "adam(lr=0.01)/hypergradient", steps=12, track=False, measure=0)
    again = copied(result)
    assert again.engine is not result.engine
    for one, other in zip(result.model().parameters(), again.model().parameters(), strict=True):
        assert torch.equal(one, other)
    assert (repr(again), again.hyperparameters) == (repr(result), result.hyperparameters)
    result.engine.step()
    assert again.engine.state.step == 12


@pytest.mark.parametrize(
    ("stack", "setting", "outcome"),
    [("sgd(lr=100)", "level1.guard=false", "diverged"), ("sgd(lr=1e30)", "level1.guard=true", "frozen")],
)
def test_a_run_that_went_nowhere_does_not_end_as_finished(stack: str, setting: str, outcome: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the task stands still
        result = recopt.run("quadratic", stack, steps=80, settings=[setting])
    assert (result.outcome, result.status) == (outcome, "FINISHED")
    [row] = list_runs()
    assert (row.status, row.metrics[outcome]) == ("FAILED", 1.0)


def test_held_out_figures_are_taken_beneath_a_search_too_and_only_of_what_is_kept() -> None:
    result = recopt.run("digits(net=logistic)", "adam/annealing", steps=60, measure=10, track=False,
                        settings=["level2.every=5"])  # fmt: skip
    steps, _ = result.history("valid_loss")
    assert len(steps) >= 5
    assert (np.diff(steps) >= 5).all()


def test_a_run_ends_early_at_a_bound_or_without_progress_and_so_when_it_is_resumed() -> None:
    def early(**asked: Any) -> recopt.Result:
        return recopt.run("digits(net=logistic)", "adam(lr=0.01)", steps=80, measure=5, **asked)

    bounded = early(until="accuracy>0.6", track=False)
    steps, accuracy = bounded.history("valid_accuracy")
    assert (bounded.outcome, bounded.engine.state.step) == ("finished", steps[-1])
    assert accuracy[-1] > 0.6 >= accuracy[:-1].max()
    patient = recopt.run("quadratic", "sgd(lr=1.0)", steps=80, measure=5, patience=3, settings=["level1.guard=false"],
                         track=False)  # fmt: skip
    steps, losses = patient.history("valid_loss")
    assert len(losses) - 1 - losses.argmin() == 3
    assert patient.engine.state.step == steps[-1] < 80
    tracked = early(until="valid_loss < 1.5")
    again = Session(replan(tracked.spec.model_dump(mode="json")), RunOptions(resume=tracked.run_id)).run()
    assert again.engine.state.step == tracked.engine.state.step < 80
    for asked, words in [
        ({"until": "acuracy>1"}, "Unknown measurement 'acuracy' in 'until'. Did you mean 'accuracy'"),
        ({"until": "test_accuracy>1"}, "'until' should be accuracy, on the valid split"),
        ({"until": "soon"}, "'until' should read like accuracy>0.97"),
        ({"patience": 2, "measure": 0}, "'patience' needs measurements, and measure=0 makes none"),
    ]:
        with pytest.raises(RecoptError, match=words):
            recopt.run("digits(net=logistic)", "adam", **{"steps": 5, "track": False, **asked})
    with pytest.raises(RecoptError, match="Unknown measurement"):  # before it is recorded, which it is from run() on
        Session(plan("digits(net=logistic)", "adam", steps=5, until="acuracy>1"), RunOptions())


def test_objects_do_as_well_as_words() -> None:
    words = recopt.run("quadratic(dim=4)", "adam(lr=0.1)/sgd", steps=20, seed=3, track=False)
    task = make("quadratic", dim=4)
    stack = recopt.run(task, "adam(lr=0.1)/sgd", steps=20, seed=3, track=False)
    np.testing.assert_array_equal(words.losses, stack.losses)
    slots = plan("quadratic", "adam(lr=0.1)/sgd").graph.slots
    graph = Graph([Level(moves="task", by="adam"), Level(moves="adam", by="sgd")], slots)
    objects = recopt.run(task, graph, steps=20, seed=3, track=False)
    np.testing.assert_array_equal(words.losses, objects.losses)
    assert objects.spec.task.model_dump() == {"name": "quadratic", "settings": {"dim": 4}, "domains": {}}
    assert objects.spec.strategies["adam"].settings == {"lr": 0.1}
    with pytest.raises(RecoptError, match="'depth' and 'settings' are for stacks"):
        recopt.run(task, graph, depth=3)


def test_a_strategy_that_comes_from_no_file_can_be_run_and_recorded() -> None:
    graph = Graph([Level(moves="task", by="mine")], {"mine": Rule(rate=0.01)})
    result = recopt.run("quadratic", graph, steps=5)
    assert result.folder is not None
    assert (result.folder / "spec.yaml").is_file()
    assert load_file(str(result.folder / "export" / "strategies.safetensors")).keys() == {"mine/rate"}


def test_a_failing_strategy_leaves_a_failed_run_with_traceback_and_checkpoint() -> None:
    graph = Graph([Level(moves="task", by="mine")], {"mine": Rule(rate=0.001, fails_at=7)})
    with pytest.raises(
        RunFailed, match=r"^Step 8 failed with ArithmeticError: lost my way\. The traceback is in .*\.$"
    ):
        recopt.run("quadratic", graph, steps=20)
    [row] = list_runs()
    assert row.status == "FAILED"
    assert row.folder is not None
    assert "lost\nmy way." in (row.folder / "traceback.txt").read_text()
    assert (row.folder / "checkpoint.safetensors").is_file()
    assert np.isfinite(row.metrics["loss"])


@pytest.mark.parametrize("wrong", [{"device": "tpu9"}, {"dtype": "float16"}, {"steps": 0}, {"tasks": 0}, {"seed": -1}])
def test_what_cannot_work_is_refused_before_anything_is_recorded(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecoptError, match=rf"{next(iter(wrong))}"):
        recopt.run("quadratic", "adam", **wrong)
    with pytest.raises(RecoptError, match="5000"):
        recopt.run("digits(batch_size=5000)", "adam")
    assert not Path("runs").exists()


def stopped(made: Plan, at: int, folder: Path) -> None:
    """Carry a plan out until step ``at``, save it in ``folder``, and go on a little with what is saved later."""

    def progress(session: Session) -> None:
        if session.step >= at:
            session.checkpoints.save(folder)
            for _ in range(3):
                session.engine.step()
            save_trace(session.trace, folder / TRACE)  # a kill between the two files
            raise MemoryError

    with pytest.raises(MemoryError):
        Session(made, RunOptions(track=False, progress=progress)).run()


@pytest.mark.parametrize("stack", ["adam/sgd", "sgd(lr=0.01)/annealing", "adam/hypergradient/annealing"])
@pytest.mark.parametrize("tasks", [1, 2])
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(stack: str, tasks: int) -> None:
    depth = stack.count("/") + 1
    made = plan("quadratic", stack, steps=90, tasks=tasks, seed=5, measure=7, settings=[f"level{depth}.every=8"]
                if "annealing" in stack else [])  # fmt: skip
    stopped(made, 50, Path("saved"))
    spec = yaml.safe_load(write_spec(made.spec))
    again = Session(replan(spec), RunOptions(track=False, saved=Path("saved")))
    assert 50 <= again.first_step < 90
    result = again.run()
    whole = Session(replan(spec), RunOptions(track=False)).run()
    assert result.trace.keys() == whole.trace.keys()
    for key in whole.trace.keys():  # noqa: SIM118 - not a mapping
        for one, other in zip(result.trace.series(*key), whole.trace.series(*key), strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(key))
    assert result.hyperparameters == whole.hyperparameters
    assert result.before == whole.before
    assert result.after == whole.after


def test_a_finished_run_can_be_made_longer() -> None:
    made = plan("quadratic", "adam/annealing", steps=30, measure=10, settings=["level2.every=8"])
    first = Session(made, RunOptions()).run()
    longer = replan(made.spec.model_dump(mode="json"), steps=70)
    result = Session(longer, RunOptions(resume=first.run_id)).run()
    whole = Session(replan(made.spec.model_dump(mode="json"), steps=70), RunOptions(track=False)).run()
    np.testing.assert_array_equal(result.losses, whole.losses)
    np.testing.assert_array_equal(result.history("test_loss")[0], [0, 70])
    assert [row.status for row in list_runs()] == ["FINISHED"]


@pytest.mark.parametrize("damage", ["another graph", "trace", "checkpoint"])
def test_a_refused_resume_leaves_the_run_as_it_was(damage: str) -> None:
    made = plan("quadratic", "lstm/adam", steps=20)
    first = Session(made, RunOptions()).run()
    assert first.folder is not None
    if damage != "another graph":
        (first.folder / {"trace": TRACE, "checkpoint": CHECKPOINT}[damage]).write_bytes(b"x")
    before = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    other = plan("quadratic", "lstm(hidden=7)/adam" if damage == "another graph" else "lstm/adam", steps=40)
    with pytest.raises(RecoptError):
        Session(other, RunOptions(resume=first.run_id))
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == before
    assert [row.status for row in list_runs()] == ["FINISHED"]
    if damage == "another graph":
        again = plan("quadratic", "lstm/adam", steps=40)
        assert len(Session(again, RunOptions(resume=first.run_id)).run().losses) == 40


class Unsavable(Rule):
    """Its state holds a set."""

    def init(self, point: Params) -> State:
        return {"steps": 0, "seen": set()}

    def forward(
        self, point: Params, trials: Sequence[Trial], state: State, rng: torch.Generator
    ) -> tuple[Params, State]:
        delta, after = super().forward(point, trials, state, rng)
        return delta, {**after, "seen": {1}}


def test_a_state_that_cannot_be_saved_is_told_and_the_run_is_marked() -> None:
    graph = Graph([Level(moves="task", by="rule")], {"rule": Unsavable()})
    with pytest.raises(RecoptError, match="holds something of type set, which cannot be saved"):
        recopt.run("quadratic", graph, steps=5)
    assert [row.status for row in list_runs()] == ["FAILED"]


def test_a_run_goes_on_from_what_it_wrote_here_also_where_a_server_has_its_files(tmp_path: Path) -> None:
    found = recopt.run("quadratic", "adam", steps=2)
    (row,) = list_runs()
    assert working_folder(row) == found.folder
    mine = open_store(None).workplace(row.id)
    mine.mkdir(parents=True)
    (mine / "checkpoint.safetensors").write_bytes(b"newer")
    assert working_folder(row) == found.folder
    assert working_folder(dataclasses.replace(row, folder=None)) == mine


def test_arguments_of_a_wrong_kind_are_named() -> None:
    for words, task, stack, more in [
        ("run: stack=.* should be text or a path or a recopt.Graph", "digits", ["adam", 3], {}),
        ("or a recopt.Strategy or .*: write Unsavable\\(\\)", "digits", Unsavable, {}),
        ("Give a task and a stack; with 'replay'", "digits", None, {}),
        ("run: task=5 should be text or a path or a recopt.Task", 5, "adam", {}),
        ("settings='adam.lr=0.1' should be a list of text", "digits", "adam", {"settings": "adam.lr=0.1"}),
        ("plugins=None should be text or a path or a list of texts or paths", "digits", "adam", {"plugins": None}),
        ("depth='3' should be a whole number or None", "digits", "adam", {"depth": "3"}),
        ("progress=5 should be True or False or a function or None", "digits", "adam", {"progress": 5}),
        ("track='no' should be True or False", "digits", "adam", {"track": "no"}),
        ("has no argument 'stpes'. Did you mean 'steps'", "digits", "adam", {"stpes": 5}),
    ]:
        with pytest.raises(RecoptError, match=words):
            recopt.run(task, stack, **{"track": False, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("compare: seeds='3' should be a whole number", lambda: recopt.compare("quadratic", "adam", seeds="3")),
        (
            "compare: stacks=3 should be text or a recopt.Graph or a recopt.Strategy or a list",
            lambda: recopt.compare("quadratic", 3),
        ),
        ("compare: baselines=None should be a list", lambda: recopt.compare("quadratic", "adam", baselines=None)),
        ("compare: too many positional", lambda: recopt.compare("quadratic", "adam", 100)),
        ("takes its settings by name", lambda: Level("task", "inner")),
        ("'moves' should be text, not 3", lambda: Level(moves=3, by="inner")),
        ("there is no 'evry'. Did you mean 'every'", lambda: Level(moves="task", by="inner", evry=3)),
        ("In a recopt.Level: 'moves' is missing", Level),
        ("In a recopt.Level: 'by' is missing", lambda: Level(moves="task")),
        ("Graph: levels=3 should be a list of recopt.Level objects", lambda: Graph(3, {})),
        ("Slot 'a' of the graph must hold a strategy, not 3", lambda: Graph([Level(moves="task", by="a")], {"a": 3})),
        ("not the class Unsavable: write Unsavable", lambda: Graph([Level(moves="task", by="a")], {"a": Unsavable})),
        ("Graph: slots=.* should be a mapping", lambda: Graph([], [])),
        ("positive: default='x' should be a number", lambda: positive("x")),
        ("option: least='1' should be a number or None", lambda: option(1, least="1")),
    ],
)
def test_arguments_of_other_public_functions_of_a_wrong_kind_are_named(words: str, call: Any) -> None:
    with pytest.raises(RecoptError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_store_may_be_a_path() -> None:
    assert recopt.run("quadratic", "adam", steps=2, store=Path("my runs.db")).run_id is not None
    assert Path("my runs.db").is_file()


def test_an_export_gives_the_trained_strategies_back() -> None:
    result = recopt.run("quadratic", "adam/hypergradient", steps=12, tasks=2)
    assert result.folder is not None
    levels, strategies = read_export(result.folder / "export")
    assert levels == result.spec.levels
    assert strategies["adam"].lr.item() == pytest.approx(result.hyperparameters["adam.lr"], rel=1e-6)  # type: ignore[attr-defined]
    free = [level.model_copy(update={"guard": False}) for level in levels]  # which would bound a rate at this start
    again = recopt.run("quadratic", Graph(free, strategies), steps=1, track=False)
    assert again.hyperparameters["adam.lr"] == pytest.approx(result.hyperparameters["adam.lr"], rel=1e-6)
    model = load_file(str(result.folder / "export" / "model.safetensors"))
    assert {name.split("/")[0] for name in model} == {"0", "1"}
    described = json.loads((result.folder / "export" / "stack.json").read_text())
    assert described["task"]["name"] == "quadratic"
    (result.folder / "export" / "strategies.safetensors").write_bytes(b"x")
    with pytest.raises(RecoptError, match="is no export of recopt"):
        read_export(result.folder / "export")
    with pytest.raises(RecoptError, match="is no export of recopt"):
        read_export(Path("nowhere"))


def test_a_task_of_ones_own_needs_no_file() -> None:
    class Bowl(Task):
        def model(self) -> torch.nn.Module:
            return torch.nn.Linear(2, 1)

        def batch(self, index: int, split: str = "train") -> torch.Tensor:
            return torch.ones(3, 2)

        def loss(self, model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
            return (model(batch) ** 2).mean()

    result = recopt.run(Bowl(), "sgd(lr=0.1)", steps=10)
    assert result.losses[-1] < result.losses[0]
    assert result.spec.task.name == "test_session.py:Bowl"


def test_levels_record_what_they_spent_and_the_run_what_it_started_from() -> None:
    result = recopt.run("quadratic", "sgd(lr=0.01)/hypergradient", steps=20)
    client = open_store().client
    assert result.run_id is not None
    assert result.spec.levels[1].gradient == "online"
    params = client.get_run(result.run_id).data.params
    assert (params["sgd.lr"], params.get("hypergradient.kappa")) == ("0.01", None)
    levels = client.search_runs(
        [client.get_run(result.run_id).info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    found = {run.data.tags["recopt.level"]: run.data for run in levels}
    assert found["1"].tags["gradient_evaluations"] == "20"
    assert found["1"].tags["restored_total"] == "0"
    assert found["2"].tags["hypergradient_evaluations"] == "19"
    assert float(found["2"].tags["seconds"]) >= 0
    assert "only" not in found["1"].params
    assert (found["2"].params["gradient"], found["2"].params["start.kappa"]) == ("online", "0.1")
