"""The documents' examples: Python and YAML parse, specs and stacks can be planned, and small plugins conform."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from recopt.cli import recopt
from recopt.levels.plain_yaml import plain_yaml
from recopt.running.plan import replan
from recopt.stacks.plugins import load_strategy, load_task
from recopt.sweeps import make_sweep_spec, plan_sweep
from recopt.testing import check, check_task

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    """Where each block of a kind stands, and its text."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[2] == kind:
                line = text.count("\n", 0, match.start()) + 1
                found.append(
                    (f"{page.relative_to(ROOT)}:{line}", re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE))
                )
    return found


def named(kind: str) -> list[object]:
    return [pytest.param(text, id=place) for place, text in blocks(kind)]


@pytest.mark.parametrize("text", named("python"))
def test_python_parses(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", named("yaml"))
def test_yaml_is_read_and_a_spec_of_a_run_or_a_sweep_is_planned(text: str) -> None:
    data = plain_yaml(text)
    assert isinstance(data, dict)
    if "over" in data:
        assert plan_sweep(make_sweep_spec(data)).schedule.trials
    elif {"task", "stack"} <= data.keys() or {"task", "levels"} <= data.keys():
        assert replan(data).graph.levels


@pytest.mark.parametrize(
    "stack", re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/levels.md").read_text().split("##")[1], re.M)
)
def test_the_stacks_of_the_notations_table_can_be_planned_on_digits(stack: str) -> None:
    made = replan({}, task="digits", stack=stack)
    made.graph.check_task([name for name, _ in made.task.model().named_parameters()])


def test_the_plugins_on_the_page_conform(here: Path) -> None:
    kinds = []
    for place, text in blocks("python"):
        if place.startswith("docs/plugins.md"):
            path = here / f"example_{len(kinds)}.py"
            path.write_text(f'"""An example."""\n{text}')
            kinds.append("task" if "(Task)" in text else "strategy")
            found = check_task(load_task(str(path))) if kinds[-1] == "task" else check(load_strategy(str(path)))
            assert not [finding for finding in found if finding.rule != "documented"], place
    assert set(kinds) == {"task", "strategy"}


def test_the_commands_that_stand_in_blocks_exist() -> None:
    commands = set()
    for kind in ("", "console", "sh", "bash"):
        for _, text in blocks(kind):
            commands |= set(re.findall(r"^(?:\$ )?recopt ([a-z]+)\b", text, flags=re.MULTILINE))
    assert commands and commands <= set(recopt.commands), commands - set(recopt.commands)
