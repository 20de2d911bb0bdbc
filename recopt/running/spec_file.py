"""Spec files: safe YAML, with error messages that name the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..checking.errors import RecoptError, shown
from ..levels.plain_yaml import plain_yaml

_MERGE = "tag:yaml.org,2002:merge"
"""The tag of the merge key ``<<``, which may occur more than once."""


def read_spec(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        RecoptError: if the file cannot be read, holds no mapping, or has a key twice.
    """
    shown_path = shown(str(path), 100)

    def check(node: yaml.Node) -> None:
        if double := _double(node):
            raise RecoptError(f"The spec {shown_path} has {double}: keep one of them.")

    try:
        data = plain_yaml(path.read_text(), check)
    except OSError as why:
        raise RecoptError(f"The spec {shown_path} cannot be read ({why.strerror}): check the path.") from None
    except RecoptError:
        raise
    except (yaml.YAMLError, ValueError) as why:
        mark = getattr(why, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        text = getattr(why, "problem", None) or str(why).partition("\n")[0]
        raise RecoptError(f"The spec {shown_path}{place} is no YAML: {shown(text, 100)}.") from None
    except RecursionError:
        raise RecoptError(f"The spec {shown_path} is nested too deeply: a spec has four levels at most.") from None
    if not isinstance(data, dict):
        raise RecoptError(f"The spec {shown_path} should be a mapping, with a task and a stack to begin with.")
    return data


def _double(root: yaml.Node | None) -> str | None:
    """The first duplicate key and its lines; YAML readers keep the last value without a warning."""
    todo, seen = [root] if root else [], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE):
                line = key.start_mark.line + 1
                if first := lines.get(key.value):
                    both = f"lines {first} and {line}" if line > first else f"line {line}"
                    return f"'{shown(key.value)}' twice, in {both}"
                lines[key.value] = line
            todo += [value for _, value in reversed(node.value)]
    return None
