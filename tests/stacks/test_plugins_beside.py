"""Plugins import the modules of their own folder, and of no other."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from recopt.stacks.plugin_file import source_of, sources_of
from recopt.stacks.plugins import load_strategy, load_task
from recopt.testing import check

from ..plugin_files import STRATEGY, TASK, write

pytestmark = pytest.mark.usefixtures("here")


def answer(path: str | Path) -> Any:
    """What the method ``ask`` of the task in ``path`` gives."""
    task: Any = load_task(str(path))()
    return task.ask()


def asking(lines: str, value: str = "VALUE") -> str:
    return f"{lines}\n{TASK}    def ask(self):\n        return {value}\n"


def test_each_folder_has_its_own_modules_which_an_edit_changes(here: Path) -> None:
    for folder in ("a", "b"):
        write(here / folder / "utils.py", f"VALUE = '{folder}'")
        write(here / folder / "task.py", asking("from utils import VALUE"))
    assert (answer("a/task.py"), answer("b/task.py")) == ("a", "b")
    write(here / "a" / "utils.py", "VALUE = 'edited'")
    assert (answer("a/task.py"), answer("b/task.py")) == ("edited", "b")
    assert "utils" not in sys.modules
    assert not any(str(here) in place for place in sys.path)


def test_a_module_beside_a_plugin_comes_before_one_of_the_same_name_elsewhere_and_only_there(here: Path) -> None:
    write(here / "mine" / "random.py", "VALUE = 'beside'")
    write(here / "mine" / "torch.py", "raise SystemError('this is not torch')")
    write(here / "mine" / "task.py", asking("import random, torch", "random.VALUE, torch.ones(1).item()"))
    assert answer("mine/task.py") == ("beside", 1.0)
    assert random.random() < 1
    write(here / "mine" / "deep" / "rule.py")
    assert issubclass(load_strategy("mine/deep/rule.py"), object)


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ("import tools.inner", "tools.inner.VALUE"),
        ("import tools.inner as t", "t.VALUE"),
        ("from tools import inner", "inner.VALUE"),
        ("from tools.inner import VALUE", "VALUE"),
        ("from .tools.inner import VALUE", "VALUE"),
        ("from . import tools", "tools.again.VALUE"),
        ("", "__import__('tools.inner').inner.VALUE"),
        ("from bare.inner import VALUE", "VALUE"),
        ("def late():\n    from tools import inner\n    return inner", "late().VALUE"),
    ],
)
def test_every_way_to_import_what_is_beside(here: Path, lines: str, value: str) -> None:
    write(here / "mine" / "base.py", "VALUE = 5")
    write(here / "mine" / "tools" / "__init__.py", "from . import again")
    write(here / "mine" / "tools" / "again.py", "from base import VALUE")
    write(here / "mine" / "tools" / "inner.py", "from .again import VALUE")
    write(here / "mine" / "bare" / "inner.py", "from tools.inner import VALUE")
    write(here / "mine" / "task.py", asking(lines, value))
    assert answer("mine/task.py") == 5
    assert not [*here.rglob("__pycache__")]


def test_the_sources_of_a_plugin_are_what_it_imports_from_its_folder(here: Path) -> None:
    write(here / "mine" / "base.py", "VALUE = 5")
    write(here / "mine" / "other.py", "1 / 0")
    write(here / "mine" / "tools" / "__init__.py", "from base import VALUE")
    path = write(here / "mine" / "task.py", asking("from tools import VALUE"))
    found = sources_of(load_task(str(path)))
    assert next(iter(found)) == path
    assert {str(file.relative_to(path.parent)) for file in found} == {"task.py", "base.py", "tools/__init__.py"}
    assert found[path] == path.read_bytes()
    assert not sources_of(load_task("quadratic"))


@pytest.mark.parametrize("line", ["from utils import RATE", "from .utils import RATE", "from . import utils"])
def test_the_battery_takes_what_a_run_takes(here: Path, line: str) -> None:
    write(here / "mine" / "utils.py", "RATE = 0.1")
    text = f"{line}\n{STRATEGY.format(name='Rule', doc='Does little.')}"
    text += "    def forward(self, point, trials, state, rng):\n"
    text += "        return [-self.lr * g for g in trials[0].grads], state\n"
    rule = load_strategy(str(write(here / "mine" / "rule.py", text)))
    source = source_of(rule)[1]
    assert not check(rule, source)
    assert [finding.rule for finding in check(rule, f"import utilz\n{source}")] == ["imports"]
