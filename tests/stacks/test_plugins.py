"""Plugins are found by name in their places, and listed."""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path

import pytest
import torch

import recopt
from recopt import RecoptError, Strategy, Task
from recopt.checking.errors import Notice
from recopt.stacks import places
from recopt.stacks.plugin_file import source_of
from recopt.stacks.plugins import is_known, list_strategies, list_tasks, load_any, load_strategy, load_task

from ..plugin_files import STRATEGY, TASK, refusal, write

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def shipped(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the shipped strategies, with one strategy, ``plain``."""
    folder = here / "elsewhere" / "shipped"
    write(folder / "plain.py", doc="The shipped one.")
    monkeypatch.setattr(places, "shipped_folder", lambda name: folder)
    return folder


def test_shipped_strategies_and_tasks_are_found_from_anywhere() -> None:
    assert issubclass(load_strategy("sgd"), Strategy)
    assert issubclass(load_task("quadratic"), Task)
    assert {"sgd", "adam", "annealing"} <= {info.name for info in list_strategies()}
    assert {"quadratic", "digits"} <= {info.name for info in list_tasks()}
    assert all(info.summary and not info.problem for info in [*list_strategies(), *list_tasks()])


def test_a_name_is_the_files_with_either_dash(here: Path, shipped: Path) -> None:
    write(shipped / "random_search.py")
    write(here / "strategies" / "hill-climb.py")
    assert load_strategy("random_search") is load_strategy("random-search")
    assert load_strategy("hill_climb") is load_strategy("hill-climb")
    assert [info.name for info in list_strategies()] == ["hill-climb", "plain", "random-search"]


def test_a_given_folder_goes_before_the_current_directorys_before_the_shipped(here: Path, shipped: Path) -> None:
    assert first_line(load_strategy("plain")) == "The shipped one."
    write(here / "strategies" / "plain.py", doc="The local one.")
    with pytest.warns(Notice, match="Strategy 'plain' is taken from ./strategies, not shipped."):
        local = load_strategy("plain")
    write(here / "mine" / "plain.py", doc="The given one.")
    with pytest.warns(Notice, match="is taken from mine, not ./strategies."):
        given = load_strategy("plain", ["mine"])
    with pytest.warns(Notice, match=r"is taken from .*plain.py, not mine."):
        assert first_line(load_strategy("plain", [shipped / "plain.py", "mine"])) == "The shipped one."
    assert [first_line(c) for c in (local, given)] == ["The local one.", "The given one."]


def first_line(plugin: type) -> str:
    return inspect.cleandoc(plugin.__doc__ or "").splitlines()[0]


def test_a_copy_of_a_shipped_file_shadows_nothing(here: Path, shipped: Path) -> None:
    for folder in ("strategies", "mine"):
        write(here / folder / "plain.py", (shipped / "plain.py").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_strategy("plain")
        load_strategy("plain", "mine")
    # A checkout's folder, when recopt is installed: these are the shipped ones.
    assert [(info.origin, info.shadows) for info in list_strategies()] == [("shipped", ())]
    assert [(info.origin, info.shadows) for info in list_strategies("mine")] == [("mine", ())]


def test_the_shipped_folder_as_the_current_one_is_still_shipped(
    here: Path, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped.rename(here / "elsewhere" / "strategies")
    monkeypatch.setattr(places, "shipped_folder", lambda name: here / "elsewhere" / "strategies")
    monkeypatch.chdir(here / "elsewhere")
    assert [(info.name, info.origin) for info in list_strategies()] == [("plain", "shipped")]


def test_a_single_file_is_found_by_name_and_by_path(here: Path) -> None:
    path = write(here / "sub" / "my_rule.py")
    named = load_strategy("my-rule", [path])
    assert named is load_strategy("my-rule", "sub")  # one place needs no list
    assert named is load_strategy("sub/my_rule.py")
    assert named is load_strategy(str(path))


def test_a_users_task_is_a_file(here: Path) -> None:
    write(here / "my_task.py", TASK)
    assert load_task("my_task.py").__name__ == "Mine"
    assert load_task("my-task", ["my_task.py"]) is load_task("./my_task.py")


def test_a_given_folder_holds_both_kinds(here: Path) -> None:
    write(here / "mine" / "rule.py")
    write(here / "mine" / "sgd.py", TASK)
    assert load_strategy("rule", ["mine"]).__name__ == "Rule"
    assert load_task("sgd", ["mine"]).__name__ == "Mine"
    assert load_strategy("sgd", ["mine"]).__name__ != "Mine"  # the task is no strategy: on to the next place
    assert {info.name: info.origin for info in list_strategies(["mine"])}["rule"] == "mine"
    assert "sgd" in {info.name for info in list_tasks(["mine"])}
    assert "rule" not in {info.name for info in list_tasks(["mine"])}


def test_files_of_one_name_do_not_collide(here: Path) -> None:
    a, b = write(here / "a" / "same.py", name="A"), write(here / "b" / "same.py", name="B")
    first, second = load_strategy(str(a)), load_strategy(str(b))
    assert (first.__name__, second.__name__) == ("A", "B")
    assert first.__module__ != second.__module__
    assert sys.modules[first.__module__].__file__ == str(a)
    assert load_strategy(str(a)) is first


def test_a_file_that_changed_is_run_again_and_the_text_that_ran_is_kept(here: Path) -> None:
    path = write(here / "rule.py", doc="Before.")
    first = load_strategy("rule.py")
    write(path, doc="After.")
    second = load_strategy("rule.py")
    assert (first_line(first), first_line(second)) == ("Before.", "After.")
    assert source_of(first) == (path, STRATEGY.format(name="Rule", doc="Before."))
    assert source_of(second) == (path, path.read_text())


def test_the_source_of_shipped_classes_and_of_none() -> None:
    path, text = source_of(load_strategy("sgd"))
    assert text == path.read_text()
    path, text = source_of(load_task("quadratic"))
    assert path.name == "quadratic.py"
    assert text == path.read_text()
    nowhere = type("Nowhere", (Strategy,), {"__module__": "nowhere"})
    with pytest.raises(RecoptError, match="The source of Nowhere is not in a file"):
        source_of(nowhere)


def test_only_what_is_asked_for_runs_and_no_bytecode_is_left(here: Path) -> None:
    write(here / "mine" / "good.py")
    write(here / "mine" / "other.py", "raise SystemError('this file was not asked for')")
    load_strategy("good", ["mine"])
    assert sorted(p.name for p in (here / "mine").iterdir()) == ["good.py", "other.py"]


def test_dataclasses_and_private_or_imported_classes_do_not_confuse(here: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom recopt import Strategy, Task\n"
        "@dataclass\nclass Setting:\n    x: int = 1\nclass _Base(Strategy): ...\nclass Rule(_Base): ...\nAlias = Rule\n"
    )
    write(here / "rule.py", text)
    assert load_strategy("rule.py").__name__ == "Rule"
    assert list_strategies([here])[0].summary != Strategy.__doc__


def test_a_plugin_of_either_kind(here: Path) -> None:
    write(here / "mine" / "own_task.py", TASK)
    write(here / "mine" / "own_rule.py")
    assert load_any("sgd") == ("strategy", load_strategy("sgd"))
    assert load_any("digits") == ("task", load_task("digits"))
    assert load_any("own-task", "mine") == load_any("mine/own_task.py") == ("task", load_task("mine/own_task.py"))
    assert load_any("mine/own_rule.py") == ("strategy", load_strategy("own_rule", "mine"))
    assert refusal("digitz", load=load_any) == "Unknown strategy or task 'digitz'. Did you mean 'digits'?"
    assert refusal("gone.py", load=load_any).startswith("There is no file 'gone.py'")


def test_what_is_known_is_told_without_running_it(here: Path) -> None:
    write(here / "mine" / "rule.py", "1 / 0")
    assert is_known("strategy", "rule", "mine")
    assert is_known("strategy", "mine/rule.py")
    assert is_known("task", "digits")
    assert not is_known("task", "sgd")
    assert not is_known("strategy", "rule")
    assert not is_known("strategy", "mine/gone.py")


def test_a_broken_plugin_is_listed_with_its_reason_among_the_others(here: Path, shipped: Path) -> None:
    write(here / "strategies" / "broken.py", "def f(:")
    write(here / "mine" / "fails.py", "1 / 0")
    write(here / "mine" / "_helper.py", "1 / 0")
    write(here / "mine" / "plain.py", "import not_there_at_all")
    found = {info.name: info for info in list_strategies("mine")}
    assert sorted(found) == ["broken", "fails", "plain"]
    assert "broken.py, line 1: this is not Python" in (found["broken"].problem or "")
    assert "ZeroDivisionError: division by zero" in (found["fails"].problem or "")
    assert "no module 'not_there_at_all'" in (found["plain"].problem or "")
    assert found["plain"].shadows == ("shipped",)


def test_what_nobody_asked_for_is_listed_without_running_it_and_announced_before_it_runs(here: Path) -> None:
    write(here / "strategies" / "own.py", f'print("it runs")\n{STRATEGY}'.format(name="Own", doc="Does much."))
    write(here / "strategies" / "adam.py", "raise SystemError('nobody asked for it')")
    found = {info.name: info for info in list_strategies()}
    assert (found["own"].summary, found["own"].problem) == ("Does much.", None)
    assert found["adam"].problem is None and found["adam"].shadows == ("shipped",)
    recopt.Optimizer([torch.zeros(1, requires_grad=True)])  # its own default is of shipped strategies
    with pytest.warns(Notice, match="^Strategy 'own' is taken from ./strategies.$"):
        load_strategy("own")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(here / "strategies" / "never.py", "raise SystemError('it is run unannounced')")
        with pytest.raises(Notice):
            load_strategy("never")


def test_a_listing_has_the_line_of_the_plugin_and_not_of_a_helper_beside_it(here: Path) -> None:
    for info in list_strategies([]):
        plugin = load_strategy(info.name, [])
        assert info.trained or (plugin.__doc__ or "").strip().startswith(info.summary), info.name
    helper = 'class Helper:\n    """Helps."""\n\n\n'
    write(here / "strategies" / "mine.py", helper + STRATEGY.format(name="Other", doc="Does much."))
    assert {info.name: info.summary for info in list_strategies()}["mine"] == "Does much."


def test_a_listing_tells_the_file_the_origin_and_the_first_line(here: Path, shipped: Path) -> None:
    write(here / "strategies" / "local.py", doc="Does much.")
    local, plain = list_strategies()
    assert (local.name, local.origin, local.summary, local.kind) == ("local", "./strategies", "Does much.", "strategy")
    assert local.path == Path("strategies/local.py")
    assert (plain.origin, plain.summary, plain.path) == ("shipped", "The shipped one.", shipped / "plain.py")
    digits = next(info for info in list_tasks() if info.name == "digits")
    assert (digits.origin, digits.problem) == ("shipped", None)
    assert digits.summary
