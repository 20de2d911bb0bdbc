"""Plugins of installed packages, and an installation of recopt itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recopt import RecoptError
from recopt.checking.errors import Notice
from recopt.stacks import places
from recopt.stacks.places import shipped_folder
from recopt.stacks.plugin_file import source_of
from recopt.stacks.plugins import list_strategies, load_strategy, load_task

from ..plugin_files import STRATEGY, TASK, refusal

pytestmark = pytest.mark.usefixtures("here")


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
    with pytest.warns(Notice, match=r"'sgd' is taken from shipped, not installed \(acme_bad\)."):
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


def test_an_installation_that_lacks_its_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "__file__", str(here / "site-packages" / "recopt" / "plugins.py"))
    (here / "site-packages" / "strategies").mkdir(parents=True)  # somebody else's: there is no checkout around it
    with pytest.raises(RecoptError, match="This installation of recopt lacks its folder 'strategies'"):
        shipped_folder("strategies")


def test_names_are_found_without_torch() -> None:
    code = "from recopt.stacks.plugins import load_task, RecoptError\n"
    code += "try: load_task('nothing')\nexcept RecoptError: pass\n"
    code += "import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
