"""The documents' examples: Python runs, specs and stacks are planned, commands are understood, and plugins conform."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import nn

import recopt as library
from recopt.cli import recopt
from recopt.comparison import make_compare_spec
from recopt.levels.plain_yaml import plain_yaml
from recopt.running.plan import replan
from recopt.stacks.plugins import load_strategy, load_task
from recopt.sweeps import make_sweep_spec, plan_sweep
from recopt.testing import check, check_task

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)([^\n]*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
WIDEST = 92
"""Columns of a block that the site shows without scrolling."""
ELSEWHERE = {
    "docs/integrations.md": "needs Lightning and transformers: tests/integrations/test_page.py",
    "docs/learned.md": "needs an export and a registry: tests/optim/test_optimizer_exports.py",
}
"""Pages whose blocks of Python are not run here, and where they are."""


WHOLE = ("docs/migrating.md",)
"""Pages whose blocks need those that are run when the site is built."""
PEERS = ("schedulefree", "gradient_descent_the_ultimate_optimizer", "optuna", "betty", "torchopt")
"""Packages of others, which these pages show and which need not be there."""


def blocks(kind: str, page: str = "", executed: bool | None = None) -> list[tuple[str, str]]:
    """Where each block of a kind stands, and its text; ``executed``: whether building the site runs it."""
    found = []
    for path in PAGES:
        name, text = str(path.relative_to(ROOT)), path.read_text()
        for match in BLOCK.finditer(text):
            if match[2] == kind and (not page or name == page) and executed in (None, 'exec="true"' in match[3]):
                if executed is None and kind == "python" and "exec" in match[3] and "source" not in match[3]:
                    continue  # it is not shown
                line = text.count("\n", 0, match.start()) + 1
                found.append((f"{name}:{line}", re.sub(f"^{match[1]}", "", match[4], flags=re.MULTILINE)))
    return found


def named(kind: str) -> list[object]:
    return [pytest.param(text, id=place) for place, text in blocks(kind)]


def pages_with(kind: str) -> list[str]:
    return list(dict.fromkeys(place.partition(":")[0] for place, _ in blocks(kind, executed=False)))


@pytest.mark.parametrize("text", named("python"))
def test_python_parses(text: str) -> None:
    ast.parse(text)


@pytest.fixture
def around(here: Path) -> dict[str, Any]:
    """The names and the folder that a reader of the pages has: a model, a loss, an export."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(16, 4)
    found = library.run("quadratic", "mlp-rule/adam", steps=2)
    assert found.folder is not None
    (found.folder / "export").rename(here / "my-rule")
    return {
        "recopt": library, "torch": torch, "nn": nn, "model": model, "loss_of": lambda: model(x).square().mean(),
        "evaluate": lambda model: model(x).mean().item(), "opt": library.Optimizer(model.parameters()),
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")
@pytest.mark.parametrize("page", [page for page in pages_with("python") if page not in ELSEWHERE])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, around: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = library.run
    monkeypatch.setattr(library, "run", lambda *args, **more: run(*args, **{**more, "steps": 5}))
    for place, text in blocks("python", page, executed=None if page in WHOLE else False):
        around["loss"] = around["loss_of"]()
        try:
            exec(compile(text, place, "exec"), around)
        except ModuleNotFoundError as why:
            if why.name not in PEERS:
                raise


@pytest.mark.parametrize("library", ["higher", "betty", "torchopt"])
def test_what_others_write_takes_no_more_lines_here(library: str) -> None:
    page = (ROOT / "docs/migrating.md").read_text()
    section = page.split(f"\n## {library}\n")[1].split("\n## ")[0]
    found = [(match[3], match[4]) for match in BLOCK.finditer(section) if match[2] == "python"]
    theirs, ours = found[::2], found[1::2]
    assert len(theirs) == len(ours) > 0
    for (how, there), (also, here) in zip(theirs, ours, strict=True):
        assert "exec" not in how
        assert "exec" in also
        assert len(here.split("\n")) <= len(there.split("\n"))


@pytest.mark.parametrize("text", named("yaml"))
def test_yaml_is_read_and_specs_of_runs_sweeps_and_comparisons_are_planned(text: str, here: Path) -> None:
    data = plain_yaml(text)
    assert isinstance(data, dict)
    if "over" in data:
        assert plan_sweep(make_sweep_spec(data)).schedule.trials
    elif {"task", "stack"} <= data.keys() or {"task", "levels"} <= data.keys():
        assert replan(data).graph.levels
    elif "stacks" in data:
        (here / "learn.yaml").write_text("task: digits\nstack: mlp-rule/adam\n")
        for one in data.pop("each", [{}]):
            spec = {**data, **one}
            made = make_compare_spec({key: value for key, value in spec.items() if key != "name"})
            assert made.stacks


@pytest.mark.parametrize(
    "stack", re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/levels.md").read_text().split("##")[1], re.M)
)
def test_the_stacks_of_the_notations_table_can_be_planned_on_digits(stack: str) -> None:
    made = replan({}, task="digits", stack=stack)
    made.graph.check_task([name for name, _ in made.task.model().named_parameters()])


def test_the_plugins_on_the_page_conform(here: Path) -> None:
    kinds = []
    for place, text in blocks("python", "docs/plugins.md"):
        path = here / f"example_{len(kinds)}.py"
        path.write_text(f'"""An example."""\n{text}')
        kinds.append("task" if "(Task)" in text else "strategy")
        found = check_task(load_task(str(path))) if kinds[-1] == "task" else check(load_strategy(str(path)))
        assert not [finding for finding in found if finding.rule != "documented"], place
    assert set(kinds) == {"task", "strategy"}


def commands() -> list[object]:
    """Each line of a block that is a command of recopt, without its remark."""
    found = []
    for kind in ("", "console", "sh", "bash"):
        for place, text in blocks(kind):
            for line in re.findall(r"^(?:\$ )?recopt (.+)", text.replace("\\\n", " "), flags=re.MULTILINE):
                found.append(pytest.param(shlex.split(line, comments=True), id=f"{place} {line[:40]}"))
    return found


@pytest.mark.filterwarnings("ignore:.*estimates from trials what gradient=unroll:recopt.checking.errors.Notice")
@pytest.mark.parametrize("words", commands())
def test_a_command_that_stands_in_a_block_is_understood(words: list[str], here: Path) -> None:
    (here / "FILE.yaml").touch()
    (here / "circles.py").touch()
    words = ["FILE.yaml" if "…" in word and ".yaml" in word else word for word in words]
    name, rest = words[0], [word for word in words[1:] if "…" not in word]
    given = recopt.commands[name].make_context(name, rest, parent=click.Context(recopt)).params
    stack = given.get("stack") or ""
    known = "rule" not in stack and given.get("task") != "circles.py" and not given.get("replay")
    if name in ("run", "graph") and given.get("task") and known:
        assert replan({}, task=given["task"], stack=stack, settings=given["settings"]).graph.levels


def test_a_line_of_a_block_is_shown_without_scrolling() -> None:
    wide = []
    for kind in ("", "python", "yaml", "sh"):
        for place, text in blocks(kind):
            own = [line for line in text.splitlines() if "# markdown-exec: hide" not in line]
            wide += [f"{place} {len(line)} {line[:60]}" for line in own if len(line) > WIDEST]
    assert not wide, "\n".join(wide)


LINK = re.compile(r"\]\(([^)\s]+)\)")


def slug(heading: str) -> str:
    """The anchor of a heading, as mkdocs and GitHub write it."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_a_link_of_a_page_outside_the_site_leads_somewhere(name: str) -> None:
    for target in LINK.findall((ROOT / name).read_text()):
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            assert (ROOT / path).exists(), target
            headings = re.findall(r"^#+ (.+)", (ROOT / path).read_text(), re.M) if anchor else []
            assert not anchor or anchor in map(slug, headings), target


def test_links_to_other_sites_are_well_formed() -> None:
    links = [link for page in PAGES for link in LINK.findall(page.read_text()) if link.startswith("http")]
    assert links
    for link in links:
        assert re.fullmatch(r"https://[\w.-]+\.[a-z]{2,}(/[\w./#%?=&+~-]*)?", link), link
        assert "arxiv.org" not in link or re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", link), link
