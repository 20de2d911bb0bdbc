"""Plugins are found by name in their places, and what is wrong with one is said in a sentence."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from recopt import RecoptError, Strategy, Task, plugin_places
from recopt.plugins import (
    ShadowedPlugin,
    is_known,
    list_strategies,
    list_tasks,
    load_any,
    load_strategy,
    load_task,
    shipped_folder,
    source_of,
)

pytestmark = pytest.mark.usefixtures("here")

STRATEGY = '''"""The module."""
from recopt import Strategy, positive

class {name}(Strategy):
    """{doc}

    More.
    """

    lr = positive(0.1)
'''
TASK = "from recopt import Task\nclass Mine(Task):\n    'My task.'\n"


@pytest.fixture
def shipped(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the shipped strategies, with one strategy, ``plain``."""
    folder = here / "elsewhere" / "shipped"
    write(folder / "plain.py", doc="The shipped one.")
    monkeypatch.setattr(plugin_places, "shipped_folder", lambda name: folder)
    return folder


def write(path: Path, text: str = STRATEGY, name: str = "Rule", doc: str = "One line.") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(name=name, doc=doc) if text is STRATEGY else text)
    return path


def refusal(name: str, *folders: Path | str, load: object = load_strategy) -> str:
    """The one sentence that asking for ``name`` is refused with."""
    assert callable(load)
    with pytest.raises(RecoptError) as caught:
        load(name, folders)
    text = str(caught.value)
    assert "\n" not in text
    assert text[-1] in ".?"
    return text


# Places and precedence


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
    with pytest.warns(ShadowedPlugin, match="Strategy 'plain' is taken from ./strategies, not shipped."):
        local = load_strategy("plain")
    write(here / "mine" / "plain.py", doc="The given one.")
    with pytest.warns(ShadowedPlugin, match="is taken from mine, not ./strategies."):
        given = load_strategy("plain", ["mine"])
    with pytest.warns(ShadowedPlugin, match=r"is taken from .*plain.py, not mine."):
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
    monkeypatch.setattr(plugin_places, "shipped_folder", lambda name: here / "elsewhere" / "strategies")
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


def test_a_plugin_imports_what_lies_beside_it_and_shipped_folders_stay_off_the_path(here: Path, shipped: Path) -> None:
    write(here / "mine" / "_nets_of_mine.py", "WIDTH = 3")
    write(
        here / "mine" / "task.py",
        TASK + "    def model(self):\n        import _nets_of_mine\n        return _nets_of_mine",
    )
    assert load_task("mine/task.py")().model().WIDTH == 3
    write(here / "strategies" / "local.py")
    load_strategy("local")
    load_strategy("plain")
    assert str(here / "strategies") in sys.path
    assert str(shipped) not in sys.path


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


# Listing


def test_a_broken_plugin_is_listed_with_its_reason_among_the_others(here: Path, shipped: Path) -> None:
    write(here / "strategies" / "broken.py", "def f(:")
    write(here / "strategies" / "fails.py", "1 / 0")
    write(here / "strategies" / "_helper.py", "1 / 0")
    write(here / "strategies" / "plain.py", "import not_there_at_all")
    found = {info.name: info for info in list_strategies()}
    assert sorted(found) == ["broken", "fails", "plain"]
    assert "broken.py, line 1: this is not Python" in (found["broken"].problem or "")
    assert "ZeroDivisionError: division by zero" in (found["fails"].problem or "")
    assert "no module 'not_there_at_all'" in (found["plain"].problem or "")
    assert found["plain"].shadows == ("shipped",)


def test_a_listing_tells_the_file_the_origin_and_the_first_line(here: Path, shipped: Path) -> None:
    write(here / "strategies" / "local.py", doc="Does much.")
    local, plain = list_strategies()
    assert (local.name, local.origin, local.summary, local.kind) == ("local", "./strategies", "Does much.", "strategy")
    assert local.path == Path("strategies/local.py")
    assert (plain.origin, plain.summary, plain.path) == ("shipped", "The shipped one.", shipped / "plain.py")
    digits = next(info for info in list_tasks() if info.name == "digits")
    assert (digits.origin, digits.problem) == ("shipped", None)
    assert digits.summary


# Refusals


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
        ("from .other import x", "{path}, line 1: the file fails when it is imported (ImportError: attempted relative"),
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


# Installed packages


@pytest.fixture
def installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path that distributions can be put into."""
    folder = here / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def distribution(folder: Path, name: str, points: dict[str, str], text: str, group: str = "recopt.strategies") -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (folder / f"{name}.py").write_text(text)


def test_an_installed_packages_class_or_module(installed: Path) -> None:
    text = STRATEGY.format(name="Rule", doc="Installed.")
    distribution(installed, "acme_rules", {"acme_rule": "acme_rules:Rule", "acme-whole": "acme_rules"}, text)
    assert load_strategy("acme-rule") is load_strategy("acme_whole")
    assert source_of(load_strategy("acme-rule")) == (installed / "acme_rules.py", text)
    found = {info.name: info for info in list_strategies()}["acme-rule"]
    assert (found.origin, found.summary) == ("installed (acme_rules)", "Installed.")


def test_an_installed_task(installed: Path) -> None:
    distribution(installed, "acme_tasks", {"acme": "acme_tasks:Mine"}, TASK, "recopt.tasks")
    assert load_task("acme").__name__ == "Mine"
    assert refusal("acme") == "'acme' is a task, not a strategy."


def test_an_installed_package_does_not_change_what_a_shipped_name_means(installed: Path) -> None:
    distribution(installed, "acme_bad", {"sgd": "acme_bad:Rule"}, STRATEGY.format(name="Rule", doc=""))
    with pytest.warns(ShadowedPlugin, match=r"'sgd' is taken from shipped, not installed \(acme_bad\)."):
        assert load_strategy("sgd").__name__ != "Rule"


def test_installed_packages_that_offer_one_name_twice(installed: Path) -> None:
    for name in ("acme_one", "acme_two"):
        distribution(installed, name, {"acme": f"{name}:Rule"}, STRATEGY.format(name="Rule", doc=""))
    text = refusal("acme")
    assert text.startswith("Installed packages offer the strategy 'acme' more than once (acme_")
    assert "acme" in {info.name for info in list_strategies() if info.problem}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("acme_odd:missing", "cannot be imported: AttributeError: module 'acme_odd' has no attribute 'missing'."),
        ("acme_gone", "cannot be imported: ModuleNotFoundError: No module named 'acme_gone'."),
        ("acme_odd:Other", "is no subclass of recopt.Strategy: acme_odd:Other."),
        ("acme_odd", "defines no public subclass of recopt.Strategy"),
    ],
)
def test_an_installed_plugin_that_cannot_be_used(installed: Path, value: str, expected: str) -> None:
    distribution(installed, "acme_odd", {"acme": value}, "class Other: ...\n")
    assert refusal("acme").startswith(f"The strategy 'acme' of the installed package acme_odd {expected}")


# The installed form of recopt itself


def test_an_installation_that_lacks_its_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_places, "__file__", str(here / "site-packages" / "recopt" / "plugins.py"))
    (here / "site-packages" / "strategies").mkdir(parents=True)  # somebody else's: there is no checkout around it
    with pytest.raises(RecoptError, match="This installation of recopt lacks its folder 'strategies'"):
        shipped_folder("strategies")


def test_names_are_found_without_torch() -> None:
    code = "from recopt.plugins import load_task, RecoptError\ntry: load_task('nothing')\nexcept RecoptError: pass\n"
    code += "import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
