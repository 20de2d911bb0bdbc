"""Who may import what (the order of packages), and what must not load before it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import recopt
from recopt.public import HOME

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "recopt"

ORDER = [
    *(
        "public",
        "checking",
        "contracts",
        "toolkit",
        "data",
        "levels",
        "ranks",
        "rules",
        "estimators",
        "core",
        "search",
        "tasks",
    ),
    *(
        "tracking",
        "stacks",
        "optim",
        "integrations",
        "engine",
        "testing",
        "diagnosis",
        "plots",
        "running",
        "comparison",
        "sweeps",
    ),
    *("__init__", "cli", "__main__"),
]
"""The packages of recopt: each may import from itself and from those before it, at whatever time and for types too."""
ONLY = {"higher": "engine.model", "mlflow": "tracking.mlflow"}
"""Third parties that one module or package keeps to itself."""
PUBLIC = {"toolkit"}
"""Packages that are for plugins, besides what recopt itself exports."""


def module_name(path: Path) -> str:
    """``tasks.images`` for ``recopt/tasks/images.py``; a package's ``__init__`` by the package's name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def top(module: str) -> str:
    """The package of a module, or the module if it is in none."""
    return module.partition(".")[0]


def nodes(tree: ast.AST, eager: bool) -> Iterator[ast.AST]:
    """All nodes; ``eager``: those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if eager and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if eager and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from (other, *nodes(other, eager))
            continue
        yield node
        yield from nodes(node, eager)


def imports(path: Path, eager: bool = False) -> Iterator[str]:
    """Absolute dotted names of all that the file imports, ``from a import b`` as ``a.b``."""
    package = ["recopt", *path.relative_to(PACKAGE).parts[:-1]] if path.is_relative_to(PACKAGE) else []
    for node in nodes(ast.parse(path.read_text()), eager):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def ours(path: Path, eager: bool = False) -> set[str]:
    """The modules of ours that the file imports."""
    found = set()
    for name in imports(path, eager):
        parts = name.split(".")
        if parts[0] == "recopt":
            names = [".".join(parts[1:n]) for n in range(len(parts), 1, -1)]
            found.add(next((n for n in names if n in MODULES), "__init__"))
    return found


def test_the_rule_sees_each_form_of_import(tmp_path: Path) -> None:
    text = "import a.b\nfrom c import d\ndef f():\n    import e\n    from importlib import import_module as i\n"
    text += "if TYPE_CHECKING:\n    import g\nelse:\n    import h\nimportlib.import_module('j')\n"
    path = tmp_path / "x.py"
    path.write_text(text)
    assert set(imports(path)) == {"a.b", "c.d", "e", "importlib.import_module", "g", "h", "j"}
    assert set(imports(path, eager=True)) == {"a.b", "c.d", "h", "j"}
    assert {"contracts.settings", "contracts.domains"} <= ours(PACKAGE / "contracts" / "strategy.py")
    assert "checking.errors" in ours(PACKAGE / "tasks" / "__init__.py")  # two dots up


@pytest.mark.parametrize("name", MODULES)
def test_packages_import_only_from_those_before_them(name: str) -> None:
    allowed = ORDER[: ORDER.index(top(name)) + 1]
    assert {top(found) for found in ours(MODULES[name])} <= set(allowed)


def test_no_module_needs_itself() -> None:
    found = {name: ours(path) - {name} for name, path in MODULES.items()}
    TopologicalSorter(found).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_third_parties_stay_in_their_place(name: str) -> None:
    outside = {found.partition(".")[0] for found in imports(MODULES[name])}
    for party, place in ONLY.items():
        assert party not in outside or f"{name}.".startswith(f"{place}."), f"recopt.{name} imports {party}"
    assert "strategies" not in outside, f"recopt.{name} imports strategies: load them by name"


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").glob("*.py")), ids=lambda path: path.stem)
def test_shipped_strategies_are_ordinary_plugins(path: Path) -> None:
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "recopt":
            public = rest in recopt.__all__ or rest.partition(".")[0] in PUBLIC
            assert public, f"{path.name} imports {name}, which is not public"
        else:
            assert first == "torch" or first in sys.stdlib_module_names, f"{path.name} imports {name}"


def test_the_public_names_are_stated_alike_and_resolve() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == HOME
    assert sorted(recopt.__all__) == sorted(typed)
    for name, home in typed.items():
        assert getattr(recopt, name) is getattr(importlib.import_module(f"recopt.{home}"), name)
    assert set(recopt.__all__) <= set(dir(recopt))


def test_no_public_name_is_a_modules() -> None:
    # Importing the module recopt.x sets the attribute x of recopt, whatever else it was to be.
    assert not set(recopt.__all__) & {top(name) for name in MODULES}


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = recopt.nothing


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after ``code``."""
    code = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


HELP = "import recopt.cli\ntry: recopt.cli.main(['--help'])\nexcept SystemExit as end: assert not end.code"


@pytest.mark.parametrize(
    "code", ["import recopt", "import recopt.stacks.plugins", HELP], ids=["import", "plugins", "help"]
)
def test_torch_and_mlflow_load_when_used(code: str) -> None:
    assert not loaded_by(code) & {"torch", "mlflow", "higher", "numpy", "networkx", "sklearn", "matplotlib"}
    assert "torch" in loaded_by("import recopt; recopt.Strategy")
