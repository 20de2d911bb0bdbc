"""The sizes that CONTRIBUTING asks for: files of 300 lines, functions of 40, classes of ten methods."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(file for room in ("recopt", "strategies", "benchmarks") for file in (ROOT / room).rglob("*.py"))


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring, which says what each of many arguments is."""
    text = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    own = 0 if text is None else (text.end_lineno or 0) - text.lineno + 1
    return (node.end_lineno or 0) - node.lineno + 1 - own


def too_large(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8")
    found = [f"{file.name} has {count} lines"] if (count := len(text.splitlines())) > 300 else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > 40:
            found.append(f"{file.name}: {node.name} has {lines(node)} lines")
        if isinstance(node, ast.ClassDef):
            methods = [x.name for x in node.body if isinstance(x, ast.FunctionDef) and not x.name.startswith("__")]
            found += [f"{file.name}: {node.name} has {len(methods)} methods"] if len(methods) > 10 else []
    return found


def test_files_functions_and_classes_are_held_in_the_head() -> None:
    assert len(FILES) > 150
    assert [fault for file in FILES for fault in too_large(file)] == []


def test_what_is_too_large_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "large.py"
    steps = "\n".join(f"    x{n} = {n}" for n in range(40))
    methods = "\n".join(f"    def m{n}(self): ..." for n in range(11))
    file.write_text(f"def long():\n{steps}\nclass Wide:\n{methods}\n" + "\n" * 300)
    assert too_large(file) == [
        "large.py has 353 lines", "large.py: long has 41 lines", "large.py: Wide has 11 methods",
    ]  # fmt: skip
