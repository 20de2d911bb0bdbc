"""YAML without surprises: numbers as Python writes them, no dates, no tags, no anchors that multiply."""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_VALUES = 100_000
DEEPEST = 50


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, and a date or 12:30 is text."""


_NUMBERS = {
    "int": r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$",
    "float": r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in (*_NUMBERS, "timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _form in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(_form), list("-+.0123456789"))


def plain_yaml(text: str, check: Any = None) -> Any:
    """The value of a YAML text.

    Args:
        check: called with the root node, before anything is made of it.

    Raises:
        yaml.YAMLError: for text that is no YAML, or has tags, anchors within themselves, or too many values.
        ValueError: for a number that Python cannot read.
        RecursionError: for text that is nested too deeply.
    """
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    if _size(node, {}, ()) > MOST_VALUES:
        raise yaml.constructor.ConstructorError(None, None, f"it has more than {MOST_VALUES:,} values", node.start_mark)
    if check is not None:
        check(node)
    try:
        return loader.construct_document(node)
    except (ArithmeticError, AttributeError, LookupError, TypeError) as why:  # such as !!bool x
        raise yaml.constructor.ConstructorError(
            None, None, "a value is not what its tag says", node.start_mark
        ) from why


def _size(node: yaml.Node, known: dict[int, int], within: tuple[int, ...]) -> int:
    """The number of values in ``node``, each anchor counted wherever it is used."""
    if id(node) in within or len(within) > DEEPEST:
        problem = "an anchor stands within itself" if id(node) in within else "it is nested too deeply"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.rpartition(":")[2] not in _TAGS:
        shown = node.tag.removeprefix("tag:yaml.org,2002:")[:20]
        raise yaml.constructor.ConstructorError(None, None, f"a tag like !!{shown} is not allowed", node.start_mark)
    if id(node) not in known:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else parts
        known[id(node)] = 1 + sum(_size(part, known, (*within, id(node))) for part in parts)
    return known[id(node)]


_TAGS = ("str", "int", "float", "bool", "null", "seq", "map", "merge")
