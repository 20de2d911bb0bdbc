"""What is wrong with a plugin is said in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recopt import RecoptError
from recopt.stacks.plugins import list_tasks, load_strategy, load_task

from ..plugin_files import STRATEGY, TASK, refusal, write

pytestmark = pytest.mark.usefixtures("here")


def test_unknown_names() -> None:
    assert refusal("sgdd") == "Unknown strategy 'sgdd'. Did you mean 'sgd'?"
    assert refusal("quadratik", load=load_task) == "Unknown task 'quadratik'. Did you mean 'quadratic'?"
    with pytest.raises(RecoptError, match="Unknown strategy 'sdg' in 'adam/sdg'. Did you mean 'sgd'?"):
        load_strategy("sdg", where="in 'adam/sdg'")
    assert "Known: " in refusal("zzzz")


def test_a_task_where_a_strategy_belongs_and_the_reverse(here: Path) -> None:
    assert refusal("digits") == "'digits' is a task, not a strategy."
    assert refusal("sgd", load=load_task) == "'sgd' is a strategy, not a task."
    write(here / "mine" / "own.py", TASK)
    assert refusal("own", "mine") == "'own' is a task, not a strategy."
    assert refusal("mine/own.py") == "mine/own.py defines a task, not a strategy."


def test_a_file_asked_for_without_its_ending(here: Path) -> None:
    write(here / "my_task.py", TASK)
    assert refusal("my_task", load=load_task) == "Unknown task 'my_task'. Did you mean 'my_task.py'?"


def test_places_that_are_not_there(here: Path) -> None:
    write(here / "notes.txt", "")
    for place in ("nowhere", "notes.txt", "gone.py"):
        expected = f"Plugins cannot be read from '{place}': give a folder or a .py file that exists."
        assert refusal("sgd", place) == expected
        with pytest.raises(RecoptError, match="give a folder"):
            list_tasks([place])
    assert refusal("gone.py", load=load_task) == "There is no file 'gone.py': give the path of a file with a task."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ndef f(:\n", "{path}, line 2: this is not Python (invalid syntax)."),
        ("x = '\xe9'", "{path}, line 1: this is not Python ("),
        ("", "{path} defines no public subclass of recopt.Strategy: a helper's file name starts with '_'."),
        ("from recopt import Strategy", "{path} defines no public subclass of recopt.Strategy"),
        (STRATEGY + STRATEGY.replace("{name}", "Other"), "{path} defines Rule and Other: keep one public subclass"),
        ("\nimport not_there_at_all", "{path}, line 2: there is no module 'not_there_at_all': install it, or put"),
        ("from recopt import Nothing", "{path}, line 1: the file fails when it is imported (ImportError: cannot"),
        (
            "def f():\n    raise OSError('a\\nb.')\nf()",
            "{path}, line 2: the file fails when it is imported (OSError: a b).",
        ),
        ("raise KeyError", "{path}, line 1: the file fails when it is imported (KeyError)."),
        ("import sys\nsys.exit(3)", "{path}, line 2: the file exits when it is imported; put what it runs under"),
        ("from .other import x", "{path}, line 1: there is no module 'other': install it, or put other.py beside"),
        ("from ..other import x", "{path}, line 1: a plugin can import what is installed and what is beside it: put"),
    ],
)
def test_a_file_that_cannot_be_used(here: Path, text: str, expected: str) -> None:
    text = text.replace("{name}", "Rule").replace("{doc}", "")
    path = here / "rule.py"
    path.write_bytes(text.encode("latin-1"))
    assert refusal("rule.py").startswith(expected.format(path="rule.py" if "defines" in expected else path))
    assert not any(name.startswith("recopt_plugin_rule") for name in sys.modules if "defines" not in expected)


def test_an_interrupt_is_passed_on(here: Path) -> None:
    write(here / "rule.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_strategy("rule.py")


def test_two_files_of_one_name_in_a_folder(here: Path) -> None:
    write(here / "mine" / "my-rule.py")
    write(here / "mine" / "my_rule.py")
    assert refusal("my-rule", "mine") == "mine/my-rule.py and my_rule.py have the same name, 'my-rule': rename one."
    assert load_strategy("sgd", ["mine"]).__name__  # a clash elsewhere hinders nothing


def test_a_file_name_that_no_stack_can_hold(here: Path) -> None:
    write(here / "mine" / "2nd rule.py")
    assert refusal("2nd rule", "mine") == "'2nd rule' cannot be written in a stack: rename mine/2nd rule.py."
