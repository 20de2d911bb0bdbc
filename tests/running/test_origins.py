"""Records of what was run: classes from Python are taken for no others, and changed sources are told."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import recopt
from recopt import Graph, Level, RecoptError, Strategy
from recopt.checking.errors import Notice
from recopt.running.export import write_export
from recopt.running.plan import plan, replan
from recopt.running.relocated import relocated
from recopt.running.spec import read_spec, write_spec
from recopt.stacks.fetch import read_export
from recopt.stacks.plugins import load_strategy, load_task
from recopt.tracking.mlflow.runs import list_runs

from ..commands import RULE, STEPS, Recopt, write

run_in_python = recopt.run  # the fixture has the name of the package
pytestmark = pytest.mark.usefixtures("here")
TASK = """
import torch
from recopt import Task
{imports}
class Quadratic(Task):
    'A bowl.'
    def model(self):
        return torch.nn.Linear(1, 1)
    def batch(self, index, split="train"):
        return torch.ones(1, 1)
    def loss(self, model, batch):
        return (model(batch) ** 2).mean()
"""


def defined(text: str, name: str, file: str | None, monkeypatch: pytest.MonkeyPatch) -> type:
    """The class ``name`` of a script, or of an interactive session, that runs ``text``."""
    module = types.ModuleType("__main__")
    if file is not None:
        module.__file__ = write(text, file)
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(compile(text, file or "<stdin>", "exec"), vars(module))
    found: type = vars(module)[name]
    return found


@pytest.mark.parametrize(("file", "called"), [("train.py", "train.py"), (None, "interactive")])
def test_a_task_of_a_session_is_not_taken_for_the_shipped_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, file: str | None, called: str
) -> None:
    made: Any = defined(TASK.format(imports=""), "Quadratic", file, monkeypatch)
    result = recopt.run(made(seed=0), "sgd", steps=2, track=False)
    assert result.spec.task.name == f"{called}:Quadratic"
    with pytest.raises(RecoptError, match="is a class that was given from Python, which no name finds: put it into a"):
        replan(result.spec.model_dump(mode="json"))


def test_a_strategy_of_a_session_is_not_exported_as_the_shipped_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Any = defined(STEPS.replace("class Mine", "class Sgd"), "Sgd", None, monkeypatch)
    graph = Graph([Level(moves="task", by="sgd")], {"sgd": made()})
    result = recopt.run("quadratic", graph, steps=2, track=False)
    assert result.spec.strategies["sgd"].name == "interactive:Sgd"
    write_export(result.engine, result.spec, here / "out", model=False)
    with pytest.raises(RecoptError, match="The strategy 'interactive:Sgd' is a class that was given from Python"):
        read_export(here / "out")


def test_a_class_that_a_name_finds_is_recorded_by_it_and_another_of_that_name_by_its_file(here: Path) -> None:
    for folder in ("strategies", "elsewhere"):
        write(STEPS, f"{folder}/mine.py")
    write(STEPS.replace("Plain", "Other"), "elsewhere/adam.py")

    def name(made: type[Strategy]) -> str:
        graph = Graph([Level(moves="task", by="it")], {"it": made()})
        return plan("quadratic", graph).spec.strategies["it"].name

    assert name(load_strategy("adam")) == "adam"
    assert name(load_strategy("mine")) == "mine"
    assert name(load_strategy("elsewhere/adam.py")) == str(here / "elsewhere" / "adam.py")
    write(TASK.format(imports=""), "quadratic.py")
    found = plan(load_task("quadratic.py")(seed=1), "sgd").spec.task.name
    assert type(plan(found, "sgd").task) is load_task("quadratic.py")


@pytest.mark.parametrize("moved", [False, True], ids=["where it was", "moved away"])
def test_a_class_recorded_by_its_file_is_resumed(recopt: Recopt, tmp_path: Path, moved: bool) -> None:
    write("VALUE = 0.1", "elsewhere/helper.py")
    write(RULE.replace("from recopt", "from helper import VALUE\nfrom recopt", 1).format(body=""), "elsewhere/adam.py")
    graph = Graph([Level(moves="task", by="it")], {"it": load_strategy("elsewhere/adam.py")(rate=1e-3)})
    run_in_python("quadratic", graph, steps=2)
    if moved:
        (tmp_path / "elsewhere").rename(tmp_path / "gone")
    done = recopt("run", "--resume", list_runs()[0].id, "--steps", "4")
    assert (done.status, "Note" in done.err) == (0, False), done


def test_a_changed_source_is_told_with_both_digests(here: Path) -> None:
    write("VALUE = 1", "mine/helper.py")
    write(RULE.replace("from recopt", "import helper\nfrom recopt", 1).format(body=""), "mine/rule.py")
    write(TASK.format(imports=""), "mine/bowl.py")
    first = plan("bowl", "rule", plugins=["mine"]).spec
    assert set(first.digests) == {"strategy rule", "task bowl"}
    Path("spec.yaml").write_text(write_spec(first))
    data = relocated(read_spec(Path("spec.yaml")), here)
    assert replan(data).spec == first
    write("VALUE = 2", "mine/helper.py")
    told = rf"Strategy 'rule' has changed since .* digest [0-9a-f]{{16}}, and had {first.digests['strategy rule']}\."
    with pytest.warns(Notice, match=told):
        again = replan(data).spec
    assert again.digests["task bowl"] == first.digests["task bowl"]
    assert not plan("digits", "adam").spec.digests


def test_an_export_whose_plugin_was_changed_is_refused(here: Path) -> None:
    write("VALUE = 1", "mine/helper.py")
    write(RULE.replace("from recopt", "import helper\nfrom recopt", 1).format(body=""), "mine/rule.py")
    result = recopt.run("quadratic", "rule", plugins=["mine"], steps=2, track=False)
    write_export(result.engine, result.spec, here / "out", model=False)
    assert set(read_export(here / "out")[1]) == {"rule"}
    write("VALUE = 2", "out/plugins/helper.py")
    with pytest.raises(RecoptError, match="out/plugins/helper.py is not as it was written with the rest of the export"):
        read_export(here / "out")


def test_different_modules_of_one_name_cannot_be_kept_with_one_run(here: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        write(f"VALUE = {value}", f"{folder}/helper.py")
        write(f"import helper{STEPS}", f"{folder}/{folder}_rule.py")
    with pytest.raises(RecoptError, match=r"helper.py and .*helper.py cannot be kept with one run: rename one of them"):
        plan("quadratic", "a_rule/b_rule", plugins=["a", "b"])


def test_the_number_of_threads_is_in_the_record(recopt: Recopt) -> None:
    recopt("run", "quadratic", "sgd", "--steps", "2")
    assert list_runs()[0].params["threads"] == str(torch.get_num_threads())
